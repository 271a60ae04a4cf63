"""The tables of a report, as plain cells that every format renders."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.published import Cell, cells, published_scores
from mir_benchmarks.report.runs import Run, average, mean_of_present, mean_ranks
from mir_benchmarks.statistics import FEW, Comparison, Sample, compare, differences, holm
from mir_benchmarks.tasks.registry import TASKS
from probes.metrics import METRICS, score_parts
from probes.results import Result

STANDARDIZED = "‡"
ROUGH = "~"
SYNTHETIC = "synthetic data: these numbers are not comparable with published ones, which are on the real data"


@dataclass(frozen=True)
class Table:
    """A titled grid of text. `best` holds (row, column) of cells to highlight, `text` names columns of words.

    The last `n_totals` rows sum up those above.
    """

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""
    best: frozenset[tuple[int, int]] = frozenset()
    text: frozenset[str] = frozenset()
    n_totals: int = 0

    def is_text(self, column: int) -> bool:
        """Whether a column is aligned left: the first one, and those of words."""
        return column == 0 or self.columns[column] in self.text

    def escaped(self, escape: Callable[[str], str], bold: str) -> list[list[str]]:
        """Columns and rows as text of a markup language; `bold` is the format of the best cells."""
        rows = [
            [bold.format(escape(cell)) if (r, c) in self.best else escape(cell) for c, cell in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]
        return [list(map(escape, self.columns)), *rows]


DIGITS = {"points": 1, "dB": 2}


def with_interval(summary: Mapping[str, Any], digits: int = 1, sign: str = "") -> str:
    """Mean and interval of a summary, as text; `sign` is "+" for differences.

    >>> with_interval({"mean": 63.456, "ci95": [60.11, 66.2]}), with_interval({"mean": 0.9, "ci95": None}, 2, "+")
    ('63.5 [60.1, 66.2]', '+0.90')
    """
    interval = ", ".join(f"{value:{sign}.{digits}f}" for value in summary["ci95"] or ())
    return f"{summary['mean']:{sign}.{digits}f}" + (f" [{interval}]" if interval else "")


def difference_cell(pair: Comparison, result: Result) -> str:
    """Difference and interval with signs; `result` is one of the two that were compared."""
    return with_interval({"mean": pair.difference, "ci95": pair.ci95}, DIGITS[unit_of(result)], "+")


def unit_of(result: Result) -> str:
    return METRICS[score_parts(tuple(result.metrics), result.protocol)[0]].unit


def marks(result: Result) -> str:
    """Marks of a result: the limit of its run, synthetic data."""
    synthetic = "synthetic" * (result.task["data"] == "synthetic")
    return "; ".join(filter(None, (f"not comparable: {result.limit}" * bool(result.limit), synthetic)))


def scores_table(runs: Sequence[Run]) -> Table:
    """Task scores with their intervals, one column per model, the best of a task in bold; then the means."""
    tasks = [name for name in TASKS if any(name in run.results for run in runs)]
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for r, name in enumerate(tasks):
        results = [run.results.get(name) for run in runs]
        items = sorted({result.score["n"] for result in results if result})
        rows.append((TASKS[name].title, "/".join(map(str, items)), *map(_score_cell, results)))
        means = [(result.score["mean"], c) for c, result in enumerate(results, start=2) if result]
        if len(means) > 1 and alike(results):
            best |= {(r, c) for mean, c in means if mean == max(means)[0]}
    totals = summary_rows(runs)
    note = "Mean over seeds with the 95 % interval over independent test items, in points of 0 to 100 (SDR: dB)."
    if any(run.synthetic for run in runs):
        note += f" * {SYNTHETIC}."
    if any(run.limited for run in runs):
        note += " † not comparable with a full run; see the details."
    if any(rough(result) for run in runs for result in run.results.values()):
        note += f" {ROUGH} fewer than {FEW} independent groups of test items: the interval is rough."
    columns = ("task", "n", *(run.label for run in runs))
    return Table("Task scores", columns, rows + totals, note, frozenset(best), n_totals=len(totals))


def _score_cell(result: Result | None) -> str:
    if result is None:
        return "–"
    signs = ("*" if result.task["data"] == "synthetic" else "") + ("†" if result.limit else "") + ROUGH * rough(result)
    return with_interval(result.score, DIGITS[unit_of(result)]) + signs


def rough(result: Result) -> bool:
    """Whether test items are so few, or of so few groups, that an interval may hold the truth in less than 93 %."""
    return bool(result.score.get("groups", result.score["n"]) < FEW)


def alike(results: Sequence[Result | None]) -> bool:
    """Whether results of one task may be ranked: same data, same protocol, same limit."""
    present = [result for result in results if result]
    return not any(differences(present[0], other) for other in present[1:])


def summary_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """The average of all 14 tasks, or the mean of those present under another name; ranks of several models."""
    rows = [("average of all 14 tasks", "", *(_average(run) for run in runs))]
    if any(set(run.results) != set(TASKS) for run in runs):
        means = [mean_of_present(run.scores) for run in runs]
        rows.append(("mean of the tasks present", "", *(f"{mean:.1f} ({n} tasks)" for mean, n in means)))
    fair = {name for name in TASKS if alike([run.results.get(name) for run in runs])}
    shared = [{name: score for name, score in run.scores.items() if name in fair} for run in runs]
    if len(runs) > 1 and set(shared[0]).intersection(*shared):
        ranks, names = mean_ranks({run.label: of_run for run, of_run in zip(runs, shared, strict=True)})
        label = f"mean rank over {len(names)} shared task{'s' * (len(names) > 1)}"
        rows.append((label, "", *(f"{ranks[run.label]:.2f}" for run in runs)))
    return rows


def _average(run: Run) -> str:
    try:
        return f"{average(run.scores):.1f}" + "*" * run.synthetic + "†" * run.limited
    except TaskError:
        return "–"


def details_table(runs: Sequence[Run]) -> Table:
    """Every metric with the selected layer and learning rate, the switches and the data."""
    columns = ("task", "model", "metric", "value [95 % CI]", "n", "seeds", "layer", "lr", "switches", "marks")
    rows: list[tuple[str, ...]] = []
    for name, run in product(TASKS, runs):
        if result := run.results.get(name):
            selected = result.layer, f"{result.lr:g}", switches(result), marks(result)
            for metric, summary in result.metrics.items():
                value = with_interval(summary, DIGITS[METRICS[metric].unit])
                counts = str(summary["n"]), str(len(summary["seeds"]))
                rows.append((TASKS[name].title, run.label, METRICS[metric].title, value, *counts, *selected))
    note = "Layer and learning rate were selected on validation; test was scored once, at the selection. "
    note += "Switches that differ from the default are marked with !."
    return Table("Details", columns, rows, note, text=frozenset({"model", "metric", "layer", "switches", "marks"}))


def switches(result: Result) -> str:
    """The protocol of a result, as `beat_post=peak! features=auto:raw`: ! marks what is not the default."""
    defaults = TASKS[result.task["name"]].protocol()
    chosen = {"auto": f"auto:{result.scaling}"}
    return " ".join(f"{k}={chosen.get(v, v)}{'!' * (v != defaults.get(k, v))}" for k, v in result.protocol.items())


def published_table(runs: Sequence[Run]) -> Table:
    """Measured rows above published ones, one column per task."""
    rows = [(f"{run.label}{'*' * run.synthetic}{'†' * run.limited}", "this report", *_our_cells(run)) for run in runs]
    by_cell = {(cell.table, cell.model, cell.task, cell.metric): cell for cell in cells()}
    for table, model in published_scores():
        rows.append((model, table, *(_published_cell(by_cell, table, model, name) for name in (*TASKS, "average"))))
    note = "Published values are on the real data, in the protocol of their authors; tags: ROC-AUC/AP, EMO: "
    note += "valence/arousal, MUSDB18: vocals/drums/bass/other. ? marks quotes at odds with other sources. "
    note += "The same model differs by up to 4 points between tables: that comes from tuning."
    if any(run.synthetic for run in runs):
        note += f" * {SYNTHETIC}."
    if any(run.limited for run in runs):
        note += " † some tasks are not comparable with a full run."
    if any(result.scaling == "standardized" for run in runs for result in run.results.values()):
        note += f" {STANDARDIZED} features standardised by the training split; MARBLE's are raw."
    columns = ("system", "source", *map(_short, TASKS), "average")
    return Table("Beside published results", columns, rows, note, text=frozenset({"source"}))


def _short(name: str) -> str:
    corpus, _, rest = TASKS[name].title.partition(" ")
    short = {"MagnaTagATune": "MTT", "GiantSteps": "GS", "MTG-Jamendo": "MTG"}.get(corpus, corpus)
    return short if name in ("mtt", "giantsteps_key", "emomusic", "musdb18") else f"{short} {rest.split(' ')[0]}"


def _our_cells(run: Run) -> Iterator[str]:
    for name, task in TASKS.items():
        result = run.results.get(name)
        parts = score_parts(task.metrics, result.protocol) if result else ()
        sign = STANDARDIZED * (result is not None and result.scaling == "standardized")
        yield "/".join(f"{result.metrics[part]['mean']:.1f}" for part in parts) + sign if result else "–"
    yield _average(run)


def _published_cell(by_cell: Mapping[tuple[str, str, str, str], Cell], table: str, model: str, task: str) -> str:
    parts = score_parts(TASKS[task].metrics) if task in TASKS else ("score",)
    values = [by_cell.get((table, model, task, part)) for part in parts]
    if not any(values):
        return "–"
    text = "/".join(f"{cell.value:.1f}" if cell else "–" for cell in values)
    return text + "?" * any(cell.status == "doubtful" for cell in values if cell)


def comparison_table(runs: Sequence[Run]) -> Table | None:
    """Paired differences of task scores for every pair of models; None where there is nothing to compare."""
    comparisons, refused = compared(runs)
    if not comparisons and not refused:
        return None
    corrected = holm([comparison.p for comparison in comparisons])
    rows: list[tuple[str, ...]] = []
    for pair, p in zip(comparisons, corrected, strict=True):
        difference = difference_cell(pair, next(run.results[pair.task] for run in runs if pair.task in run.results))
        rows.append((TASKS[pair.task].title, pair.a, pair.b, difference, p_text(pair.p), p_text(p), str(pair.n)))
    best = frozenset((r, 3) for r, p in enumerate(corrected) if p < 0.05)
    note = "Paired t test over the same test items: score of A minus score of B. The last p-value is corrected for "
    note += "the number of rows (Holm); bold where it is below 0.05."
    note = " ".join([note, *(f"Not compared: {pair} ({', '.join(tasks)})." for pair, tasks in refused.items())])
    columns = ("task", "A", "B", "A − B [95 % CI]", "p", "p, corrected", "n")
    return Table("Paired comparisons", columns, rows, note, best, frozenset({"A", "B"}))


def p_text(p: float) -> str:
    """A p-value with three decimals.

    >>> p_text(0.0421), p_text(1e-7)
    ('0.042', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def compared(runs: Sequence[Run]) -> tuple[list[Comparison], dict[str, list[str]]]:
    """All comparisons of two models on a task; and the tasks of those that are not possible, by the reason."""
    comparisons: list[Comparison] = []
    refused: dict[str, list[str]] = {}
    for name in TASKS:
        having = [run for run in runs if name in run.outputs]
        samples = {run.label: Sample.of(run.results[name], run.outputs[name]) for run in having if len(having) > 1}
        for a, b in combinations(samples, 2):
            try:
                comparisons.append(compare(samples[a], samples[b], (a, b)))
            except TaskError as error:
                refused.setdefault(f"{a} and {b}: {error.reason}", []).append(name)
    return comparisons, refused


def notes_table(runs: Sequence[Run]) -> Table:
    """Notes on the data and on the runs, and the limits of runs."""
    labels: dict[tuple[str, str], list[str]] = {}
    for name, run in product(TASKS, runs):
        if result := run.results.get(name):
            for note in [*result.notes, *([f"not comparable: {result.limit}"] if result.limit else [])]:
                labels.setdefault((TASKS[name].title, note), []).append(run.label)
    rows: list[tuple[str, ...]] = [(*title_and_note, ", ".join(models)) for title_and_note, models in labels.items()]
    return Table("Notes", ("task", "note", "models"), rows, text=frozenset({"note", "models"}))


def origins_table(runs: Sequence[Run]) -> Table:
    """Checksums of models and corpora, versions of the libraries, and computing time."""
    rows: list[tuple[str, ...]] = []
    for run in runs:
        results = list(run.results.values())
        first = results[0]
        rows.append((run.label, "model", f"{first.model['name']}, revision {first.model.get('revision') or 'none'}"))
        rows.append((run.label, "weights, SHA-256", str(first.model.get("sha256") or "not on record")))
        for name, result in run.results.items():
            corpus = f"{result.task['data']}, version {result.task.get('version')}, {result.task.get('checksum')}"
            rows.append((run.label, f"data of {TASKS[name].title}", corpus))
        for versions in dict.fromkeys(", ".join(f"{k} {v}" for k, v in each.versions.items()) for each in results):
            rows.append((run.label, "versions", versions or "not on record"))
        seconds, devices = sum(each.seconds for each in results), sorted({each.device for each in results})
        rows.append((run.label, "computed in", f"{seconds:.0f} s on {', '.join(devices)}"))
    return Table("Origins and versions", ("model", "what", "value"), rows, text=frozenset({"what", "value"}))
