"""Reports say the numbers they were given, in every format; labels stay text, and a page needs nothing but itself."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from harness.commands import run_mert
from harness.made_results import GENRES, LAYERS, outputs_of, result_of, save_run
from matplotlib.axes import Axes

from mert.errors import UsageError
from mir_benchmarks.conditions import SIGNS
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.published import cells
from mir_benchmarks.report import figures, tables
from mir_benchmarks.report.formats import CSV_COLUMNS, csv_text, latex, markdown, report_text, tex_text, write_report
from mir_benchmarks.report.runs import Run, average, load_runs
from mir_benchmarks.report.worst_items import MEASURES, worst_items
from mir_benchmarks.tasks.registry import TASKS
from probes.results import LayerCurve, Outputs, Result

EVIL = '<script>alert("1")</script> & 50_% $x$ | #{}~^\\'
FEW = ("gtzan_genre", "emomusic", "musdb18")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models on real data: one on all tasks, one on a few."""
    home = tmp_path_factory.mktemp("results")
    return [save_run(home / "a", "MERT-v1-95M", 0.8), save_run(home / "b", "nano", 0.5, FEW)]


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on synthetic data, limited, with names and labels that no format likes."""
    home = tmp_path_factory.mktemp("synthetic")
    labels = (EVIL, *GENRES[1:])
    outputs = outputs_of("gtzan_genre", 0.6, 80, labels)
    outputs.ids = np.array([f"<img src=x onerror=alert({i})>" for i in range(80)])
    changes = {"limit": "80 of 290 items", "notes": [f"shared artists {EVIL}"]}
    result_of("gtzan_genre", outputs, EVIL, "synthetic", **changes).save(home, outputs)
    return home


@pytest.fixture(scope="module")
def page(folders: list[Path], synthetic: Path) -> str:
    return report_text([*folders, synthetic], "html")


class Reader(HTMLParser):
    """Everything a browser might fetch or run, the text it would show, and tags that were not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_but_itself(page: str) -> None:
    reader = Reader(page)
    assert reader.open == [] and len(reader.links) > 20
    assert all(link.startswith(("#", "data:image/svg+xml;base64,")) for link in reader.links)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(reader.tags)
    assert not re.search(r"url\(|@import|https?:", re.sub(r'src="data:[^"]*"', "", page))
    targets = set(re.findall(r'id="([^"]+)"', page))
    assert {link[1:] for link in reader.links if link.startswith("#")} <= targets
    assert "default-src 'none'" in page


def test_names_labels_and_ids_are_shown_not_run(page: str) -> None:
    reader = Reader(page)
    assert "img" in reader.tags and "<script" not in page and "onerror" in reader.text
    assert EVIL in reader.text and "<img src=x onerror=alert(" in reader.text


def test_the_page_says_what_is_synthetic_limited_and_published(page: str) -> None:
    text = Reader(page).text
    assert SIGNS["*"] in text and "80 of 290 items" in text
    for words in ("Synthetic data", "Not comparable", "MERT-330M RVQ-VAE", "Paired comparisons", "z-scored", "torch "):
        assert words in text
    assert not re.search(r"(?<![\w.])(nan|None|inf)(?![\w])", text.replace("revision None", ""))


def test_real_full_results_bring_no_warning_and_the_same_page_each_time(folders: list[Path]) -> None:
    page = report_text(folders[1:], "html")
    text = Reader(page).text
    assert "Synthetic data" not in text and "Not comparable" not in text and "Paired comparisons" not in text
    assert report_text(folders[1:], "html") == page


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_a_spreadsheet_runs_no_name_of_a_model(name: str, tmp_path: Path) -> None:
    (run,) = load_runs([save_run(tmp_path / "a", name, 0.5, FEW)])
    rows = [row for row in csv.DictReader(io.StringIO(csv_text([run]))) if row["origin"] == "measured"]
    assert {row["model"] for row in rows} == {f"'{name}"} and all(float(row["mean"]) < 100 for row in rows)


def test_csv_comes_back_as_it_was(folders: list[Path], synthetic: Path) -> None:
    runs = load_runs([*folders, synthetic])
    rows = list(csv.DictReader(io.StringIO(csv_text(runs))))
    assert tuple(rows[0]) == CSV_COLUMNS
    measured = {(r["model"], r["task"], r["metric"]): r for r in rows if r["origin"] == "measured"}
    for run in runs:
        for name, result in run.results.items():
            for metric, summary in (result.metrics | {"score": result.score}).items():
                row = measured.pop((run.label, name, metric))
                assert float(row["mean"]) == summary["mean"] and int(row["n"]) == summary["n"]
                assert [float(row["low"]), float(row["high"])] == summary["ci95"]
                assert json.loads(row["seeds"]) == summary["seeds"] and json.loads(row["protocol"]) == result.protocol
                assert (row["layer"], float(row["lr"]), row["limit"] or None) == (result.layer, result.lr, result.limit)
                assert row["data"] == result.task["data"] and row["unit"] == ("dB" if name == "musdb18" else "points")
    averages = {run.label: average(run.scores) for run in runs if set(run.scores) == set(TASKS)}
    assert {model: float(row["mean"]) for (model, _, _), row in measured.items()} == averages
    assert all(task == "average" for _, task, _ in measured) and averages
    published = [r for r in rows if r["origin"] == "published"]
    assert len(published) == len(cells()) and all(r["source"] and r["data"] == "real" for r in published)


def test_latex_specials_are_escaped(folders: list[Path], synthetic: Path) -> None:
    text = report_text([*folders, synthetic], "tex")
    assert tex_text(EVIL) in text
    assert tex_text("a_b & 5% $#{}~^\\") == (r"a\_b \& 5\% \$\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{}")
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert not re.search(r"(?<!\\)[%#_]", line), line
    for table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(table[0]) - 1 for row in rows)
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") >= 4


def test_markdown_tables_have_as_many_cells_as_columns(folders: list[Path], synthetic: Path) -> None:
    text = report_text([*folders, synthetic], "md")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "<script" not in text and SIGNS["*"] in text
    assert "| GTZAN genre | 80/120 |" in text


def test_the_best_is_set_off_only_among_what_may_be_ranked(folders: list[Path], synthetic: Path) -> None:
    strong, weak = load_runs(folders)
    found = tables.scores_table([strong, weak])
    names = [row[0] for row in found.rows]
    assert found.best == {(names.index(TASKS[name].title), 2) for name in FEW}
    other = load_runs([synthetic])[0]
    mixed = tables.scores_table([strong, other])
    assert mixed.best == frozenset() and "mean rank" not in str(mixed.rows)
    assert mixed.rows[names.index("GTZAN genre")][3].endswith("*†")


def test_an_average_is_shown_only_when_it_is_whole(folders: list[Path]) -> None:
    strong, weak = load_runs(folders)
    rows = {row[0]: row[2:] for row in tables.scores_table([strong, weak]).rows}
    wanted = f"{np.mean(list(strong.scores.values())):.1f}"
    assert rows["average of all 14 tasks"] == (wanted, "–")
    few = [f"{np.mean([run.scores[name] for name in FEW]):.1f}" for run in (strong, weak)]
    assert rows["mean over 3 shared tasks"] == tuple(few)
    assert not tables.summary_rows([weak])  # there is no average while a task is missing
    assert rows["mean rank over 3 shared tasks"] == ("1.00", "2.00")


def test_comparisons_are_paired_corrected_and_refused_with_a_reason(folders: list[Path], synthetic: Path) -> None:
    found = tables.comparison_table(load_runs([*folders, synthetic]))
    assert found is not None and [row[0] for row in found.rows] == [TASKS[name].title for name in FEW]
    assert all(row[3].startswith("+") for row in found.rows)
    assert [float(row[5].strip("< ")) >= float(row[4].strip("< ")) for row in found.rows] == [True] * 3
    assert "two results differ in data, limit (gtzan_genre)" in found.note
    assert tables.comparison_table(load_runs(folders[:1])) is None


def test_switches_show_what_is_not_the_default() -> None:
    outputs = outputs_of("gtzan_beats", 0.8, 20)
    protocol = TASKS["gtzan_beats"].protocol({"beat_tol": "0.02"}) | {"features": "raw"}
    shown = tables.switches(result_of("gtzan_beats", outputs, protocol=protocol))
    assert {"beat_post=dbn", "beat_tol=0.02!", "beat_agg=mean", "features=raw!"} <= set(shown.split())
    assert shown.count("!") == 2


def test_published_cells_stand_under_their_tasks(folders: list[Path]) -> None:
    found = tables.published_table(load_runs(folders))
    rows = {row[:2]: dict(zip(found.columns, row, strict=True)) for row in found.rows}
    old = rows["MERT-v1-95M", "MARBLE 2023"]
    assert (old["MTT"], old["GS"], old["EMO"], old["MUSDB18"]) == ("91.0/39.3", "63.5", "55.5/76.3", "5.5/5.5/3.8/3.1")
    assert rows["MERT-330M", "MuQ 2025"]["GTZAN genre"] == "78.6?" and rows["nano", "this report"]["average"] == "–"
    assert "¶" not in "".join(map("".join, found.rows)) + found.note  # features are raw, as MARBLE's


def test_scores_on_standardised_features_are_marked_beside_published_ones(tmp_path: Path) -> None:
    found = tables.published_table(load_runs([save_run(tmp_path, "nano", 0.5, FEW, scaling="standardized")]))
    cells = dict(zip(found.columns, found.rows[0], strict=True))
    assert cells["EMO"].endswith("¶") and "¶" not in cells["MTT"] and "¶ features standardised" in found.note
    assert "¶" not in "".join(map("".join, found.rows[1:]))


def test_worst_items_are_the_planted_ones() -> None:
    outputs = outputs_of("gtzan_genre", 3.0, 40)
    outputs.outputs[:, 7] = 0
    outputs.outputs[:, 7, (outputs.targets[7] + 1) % 10] = 50
    result = result_of("gtzan_genre", outputs)
    first = worst_items(result, outputs)[0]
    assert first.id == "gtzan_genre/00007" and first.measures == ("50.0", "3 of 3")
    assert first.reference == GENRES[outputs.targets[7]] and first.estimate == GENRES[(outputs.targets[7] + 1) % 10]
    right = Outputs(outputs.ids, outputs.targets, np.eye(10)[outputs.targets][None], outputs.columns)
    assert worst_items(result, right) == []


@pytest.mark.parametrize("task", TASKS)
def test_failures_of_every_task_have_their_measures_and_are_ordered(task: str) -> None:
    outputs = outputs_of(task, 0.5, 60)
    found = worst_items(result_of(task, outputs), outputs, 5)
    assert len(found) == 5 and len({one.id for one in found}) == 5
    assert all(len(one.measures) == len(MEASURES[TASKS[task].kind]) and one.estimate for one in found)
    if TASKS[task].kind in ("beats", "separation"):
        values = [float(one.measures[0]) for one in found]
        assert values == sorted(values)


def test_tags_that_were_missed_are_named() -> None:
    tags = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    scores = np.array([[[0.1, 0.9, 0.2, 0.8], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]])
    outputs = Outputs(np.array(["x", "fine", "untagged"]), tags, scores, ("rock", "jazz", "loud", "soft"))
    (one,) = worst_items(result_of("mtt", outputs_of("mtt", 0.5, 30)), outputs)
    assert (one.reference, one.estimate, one.measures) == ("rock, loud", "jazz, soft", ("1", "4"))


def test_layer_curves_take_each_layers_best_rate() -> None:
    rows = [("layer02", 1e-3, 0, 0.2), ("layer02", 1e-3, 1, 0.4), ("layer02", 1e-2, 0, 0.9), ("layer02", 1e-2, 1, -0.9),
            ("embed", 1e-3, 0, 0.1), ("all", 1e-3, 0, 0.5), ("layer10", 1e-3, 0, float("nan"))]  # fmt: skip
    grid = [dict(zip(("layer", "lr", "seed", "valid"), row, strict=True)) for row in rows]
    curve = LayerCurve.of(grid)
    assert curve.layers == ["embed", "layer02", "all"]
    assert curve.mean == pytest.approx([0.1, 0.3, 0.5]) and curve.low[1] == 0.2 and curve.high[1] == 0.4
    left = {"layer": "layer02", "lr": 1e-3, "seed": 0, "valid": 0.8, "scaling": "raw"}  # after the first seed
    assert LayerCurve.of([*grid, left]).mean == pytest.approx([0.1, 0.3, 0.5])


def test_confusions_count_every_seed_and_leave_out_what_never_occurs() -> None:
    logits = np.eye(30)[[[0, 3, 3], [0, 3, 5]]]
    outputs = Outputs(np.arange(3), np.array([0, 3, 3]), logits, tuple(map(str, range(30))))
    counts, kept = figures.confusion(outputs)
    assert kept == [0, 3, 5] and counts.tolist() == [[2, 0, 0], [0, 3, 1], [0, 0, 0]]


DRAWN: dict[str, Callable[[Run], Axes]] = {
    "scores": lambda run: figures.plot_scores([run, run]),
    "heatmap": figures.plot_heatmap,
    "curve": lambda run: figures.plot_layer_curve(run.results["gtzan_genre"]),
    "confusion": lambda run: figures.plot_confusion(run.results["gtzan_genre"], run.outputs["gtzan_genre"]),
    "estimates": lambda run: figures.plot_estimates(run.results["emomusic"], run.outputs["emomusic"], "valence"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_are_drawn_without_a_warning(name: str, folders: list[Path]) -> None:
    axes = DRAWN[name](load_runs(folders[1:])[0])
    assert isinstance(axes, Axes)
    file = io.BytesIO()
    axes.figure.savefig(file, format="png")
    assert file.tell() > 5000


def test_the_box_and_the_circle_are_at_the_best_layer(folders: list[Path]) -> None:
    run = load_runs(folders[1:])[0]
    boxes = figures.plot_heatmap(run).patches
    for box, result in zip(boxes, run.results.values(), strict=True):
        assert round(box.get_x() + 0.46) == int(LayerCurve.of(result.grid).mean.argmax())
    lines = figures.plot_layer_curve(run.results["emomusic"]).lines
    (circle,) = [line for line in lines if line.get_marker() == "o"]
    assert circle.get_xdata()[0] == LAYERS.index(run.results["emomusic"].layer)


def test_cells_hold_counts_up_to_24_classes(folders: list[Path]) -> None:
    run = load_runs(folders[:1])[0]
    texts = [t.get_text() for t in figures.plot_confusion(run.results["gtzan_genre"], run.outputs["gtzan_genre"]).texts]
    assert sum(map(int, texts)) == 3 * 120
    assert not figures.plot_confusion(run.results["nsynth_pitch"], run.outputs["nsynth_pitch"]).texts


def test_results_without_outputs_or_grid_still_give_a_report(folders: list[Path], tmp_path: Path) -> None:
    shutil.copy(folders[1] / "gtzan_genre.json", tmp_path)
    result = Result.load(tmp_path / "gtzan_genre.json")
    del result.grid[1:]  # a baseline: one layer, nothing to choose
    (tmp_path / "gtzan_genre.json").write_text(json.dumps(vars(result)))
    for form in ("md", "csv", "tex", "html"):
        assert "nano" in report_text([tmp_path], form)
    assert "z-scored" not in report_text([tmp_path], "html")
    result.grid.clear()
    (tmp_path / "gtzan_genre.json").write_text(json.dumps(vars(result)))
    assert load_runs([tmp_path])[0].layered == {}


def test_folders_are_told_apart_and_refused(folders: list[Path], tmp_path: Path) -> None:
    twin = shutil.copytree(folders[1], tmp_path / "twin")
    assert {run.label for run in load_runs([folders[1], twin])} == {f"nano ({folders[1]})", f"nano ({twin})"}
    with pytest.raises(TaskError, match="holds no result"):
        load_runs([tmp_path])
    shutil.copy(folders[0] / "mtt.json", twin)
    with pytest.raises(TaskError, match="MERT-v1-95M and nano"):
        load_runs([twin])
    with pytest.raises(UsageError, match="no format pdf"):
        write_report(folders, tmp_path / "x.pdf", "pdf")


def test_the_command_prints_or_writes(folders: list[Path], tmp_path: Path) -> None:
    printed = run_mert("bench", "report", folders[1], "--format", "csv")
    assert printed.code == 0 and printed.out == report_text(folders[1:], "csv"), printed.err
    out = tmp_path / "report.html"
    done = run_mert("bench", "report", folders[1], "--format", "html", "-o", out)
    assert done.code == 0 and done.out.strip() == str(out), done.err
    assert out.read_text().startswith("<!doctype html>")
    refused = run_mert("bench", "report", tmp_path / "none")
    assert refused.code == 1 and refused.err.count("\n") == 1 and "holds no result" in refused.err


def test_tables_render_their_marks() -> None:
    table = tables.Table("T", ("a", "b"), [("x|y", "1"), ("z", "2")], "n", frozenset({(1, 1)}))
    assert markdown(table) == "## T\n\n| a | b |\n| :-- | --: |\n| x\\|y | 1 |\n| z | **2** |\n\nn\n"
    assert r"z & \textbf{2} \\" in latex(table) and r"\begin{tabular}{lr}" in latex(table)
