"""The tables of a report, as plain cells that every format renders."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from mir_benchmarks.conditions import HUB, SIGNS, Searched, is_linear, marks, protocol_of, signs
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.published import Cell, cells, published_scores
from mir_benchmarks.report.runs import Run, averages, clear_best, mean_of_present, mean_ranks, shared_scores, unlike
from mir_benchmarks.statistics import Comparison, compare, holm
from mir_benchmarks.tasks.registry import TASKS
from probes.metrics import METRICS, score_parts
from probes.results import Result

STANDARDIZED = "¶"


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


def legend(runs: Sequence[Run]) -> str:
    """What the signs in a table of these runs mean."""
    held = {sign for run in runs for sign in run.signs}
    return "".join(f" {sign} {meaning}." for sign, meaning in SIGNS.items() if sign in held)


def scores_table(runs: Sequence[Run]) -> Table:
    """Task scores with their intervals, one column per model, a clear best of a task in bold; then the means."""
    tasks = [name for name in TASKS if any(name in run.results for run in runs)]
    differ = {name: ", ".join(unlike(runs, name)) for name in tasks}
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for r, name in enumerate(tasks):
        results = [run.results.get(name) for run in runs]
        items = sorted({result.score["n"] for result in results if result})
        rows.append((TASKS[name].title, "/".join(map(str, items)), *map(_score_cell, results), differ[name]))
        if (winner := clear_best(runs, name)) is not None:
            best.add((r, 2 + winner))
    totals = [(*row, "") for row in summary_rows(runs)]
    columns = ("task", "n", *(run.label for run in runs), "not alike in")
    note = "Mean over seeds with the 95 % interval over independent test items, in points of 0 to 100 (SDR: dB)."
    if len(runs) > 1:
        note += " Bold: the paired interval over the next best excludes 0."
    note += legend(runs)
    if any(differ.values()):
        note += " Results that are not alike are not ranked, averaged or compared."
        return Table("Task scores", columns, rows + totals, note, frozenset(best), frozenset(columns[-1:]), len(totals))
    short = [row[:-1] for row in rows + totals]
    return Table("Task scores", columns[:-1], short, note, frozenset(best), n_totals=len(totals))


def _score_cell(result: Result | None) -> str:
    return "–" if result is None else with_interval(result.score, DIGITS[unit_of(result)]) + signs(result)


def summary_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """The average of all 14 tasks where a run has them all; of several runs, means and ranks over the same tasks."""
    rows: list[tuple[str, ...]] = []
    if averages(runs):
        rows.append(("average of all 14 tasks", "", *(_average(runs, run) for run in runs)))
    shared = shared_scores(runs)
    if len(runs) > 1 and (n_tasks := len(shared[runs[0].label])):
        ranks, _ = mean_ranks(shared)
        label = f"over {n_tasks} shared task{'s' * (n_tasks > 1)}"
        means = {run.label: mean_of_present(shared[run.label])[0] for run in runs}
        if 1 < n_tasks < len(TASKS):
            held = {run.label: signs(*(run.results[name] for name in shared[run.label])) for run in runs}
            rows.append((f"mean {label}", "", *(f"{means[run.label]:.1f}{held[run.label]}" for run in runs)))
        rows.append((f"mean rank {label}", "", *(f"{ranks[run.label]:.2f}" for run in runs)))
    return rows


def _average(runs: Sequence[Run], run: Run) -> str:
    values = averages(runs)
    return f"{values[run.label]:.1f}{run.signs}" if run.label in values else "–"


def details_table(runs: Sequence[Run]) -> Table:
    """Every metric with the selected layer and learning rate, the switches and the data."""
    columns = ("task", "model", "metric", "value [95 % CI]", "n", "layer", "lr", "head", "grid", "computed in",
               "switches", "marks")  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name, run in product(TASKS, runs):
        if result := run.results.get(name):
            fitted = result.layer, f"{result.lr:g}", head_name(result), str(Searched.of(result)), computed(result)
            for metric, summary in result.metrics.items():
                value = with_interval(summary, DIGITS[METRICS[metric].unit])
                start = TASKS[name].title, run.label, METRICS[metric].title, value, str(summary["n"])
                rows.append((*start, *fitted, switches(result), "; ".join(marks(result))))
    note = "Layer, scaling and learning rate were selected on validation; test was scored once, at the selection. "
    note += "Grid: layers x scalings x learning rates x seeds, of two scalings the better one with all seeds. "
    note += "! marks fewer than all, and switches other than the default."
    words = frozenset({"model", "metric", "layer", "head", "computed in", "switches", "marks"})
    return Table("Details", columns, rows, note, text=words)


def head_name(result: Result) -> str:
    """The head in a word or two, as `mlp 512`; ! marks a linear one."""
    kind, hidden = str(result.head.get("kind", "not on record")), result.head.get("hidden")
    return f"{kind}!" if is_linear(result) else f"{kind} {hidden or ''}".strip()


def computed(result: Result) -> str:
    """Precision and context of the features, as `float32, window`."""
    return ", ".join(str(result.model[key]) for key in ("dtype", "context") if key in result.model)


def switches(result: Result) -> str:
    """The protocol of a result, as `beat_post=peak! features=auto:raw`: ! marks what is not the default."""
    defaults = {"protocol": HUB} | TASKS[result.task["name"]].protocol()
    chosen = {"auto": f"auto:{result.scaling}"}
    held = protocol_of(result).items()
    return " ".join(f"{k}={chosen.get(v, v)}{'!' * (v != defaults.get(k, v))}" for k, v in held)


def published_table(runs: Sequence[Run]) -> Table:
    """Measured rows above published ones, one column per task."""
    rows = [(f"{run.label}{run.signs}", "this report", *_our_cells(run), _average(runs, run)) for run in runs]
    by_cell = {(cell.table, cell.model, cell.task, cell.metric): cell for cell in cells()}
    for table, model in published_scores():
        rows.append((model, table, *(_published_cell(by_cell, table, model, name) for name in (*TASKS, "average"))))
    note = "Published values are on the real data, in the protocol of their authors; tags: ROC-AUC/AP, EMO: "
    note += "valence/arousal, MUSDB18: vocals/drums/bass/other. ? marks quotes at odds with other sources. "
    note += "The same model differs by up to 4 points between tables: that comes from tuning."
    note += legend(runs)
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
        samples = {run.label: run.sample(name) for run in having if len(having) > 1}
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
    """Checksums of models and corpora, versions of the libraries, computing time, date and commands."""
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
        rows.append((run.label, "written", ", ".join(dict.fromkeys(each.date or "not on record" for each in results))))
        for command in dict.fromkeys(tuple(each.command) for each in results):
            rows.append((run.label, "command", shlex.join(command) or "none on record: a call in Python"))
    return Table("Origins and versions", ("model", "what", "value"), rows, text=frozenset({"what", "value"}))
