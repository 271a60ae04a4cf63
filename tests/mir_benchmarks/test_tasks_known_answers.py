"""The whole benchmark, run by one command, and the answers that are known of it before it runs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import time
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from harness.bench_runs import but_times, oracle, run, write_tree
from harness.commands import mert_command, run_mert

from mir_benchmarks.statistics import Comparison, Sample, compare
from mir_benchmarks.suite.sizes import SIZES, Extent
from mir_benchmarks.tasks.kind import Options
from mir_benchmarks.tasks.registry import TASKS
from mir_benchmarks.tasks.run import run_task
from probes.encoders import load_encoder
from probes.metrics import STEMS
from probes.results import Result, load_outputs
from probes.separation.sdr import global_sdrs, ideal_masks, mixture_as_estimate
from probes.separation.stems import load_stems
from probes.separation.unmix import separate

pytestmark = [pytest.mark.check, pytest.mark.timeout(1_200)]

GRID = ("--layers", "layer03", "--lrs", "5e-3", "--seeds", "0", "--max-epochs", "12")
LONGEST_S = 900.0  # on two busy cores; the target, on two idle ones, is two minutes for the suite and five for the rest
CLIP_LEVEL = [task.name for task in TASKS.values() if task.kind not in ("beats", "separation")]
TAGGED = [task.name for task in TASKS.values() if task.kind == "multilabel"]


def bench(*words: object) -> str:
    """What `mert bench ...` prints; it must end well."""
    done = run_mert("bench", *words)
    assert done.code == 0, done.err
    assert "Warning" not in done.err and "Traceback" not in done.err
    return done.out


class Whole(NamedTuple):
    """A run of everything: its folder, what it printed, and its seconds."""

    out: Path
    printed: str
    seconds: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    out = tmp_path_factory.mktemp("whole")
    begin = time.monotonic()
    line = mert_command("bench", "run", "-m", "random-nano", "-t", "all", "--suite", "tiny", "-o", out, *GRID)
    done = subprocess.run(line, capture_output=True, text=True, timeout=LONGEST_S)
    assert done.returncode == 0 and "Warning" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    return Whole(out, done.stdout, time.monotonic() - begin)


def results(whole: Whole) -> dict[str, Result]:
    return {name: Result.load(whole.out / f"{name}.json") for name in TASKS}


# One command


def test_one_command_runs_all_tasks_on_a_fresh_machine(whole: Whole, capsys: pytest.CaptureFixture[str]) -> None:
    found = results(whole)
    fitting = sum(result.seconds for result in found.values())
    with capsys.disabled():
        slow = max(found.values(), key=lambda result: result.seconds)
        print(
            f"\n14 tasks in {fitting:.0f} s ({slow.task['name']} {slow.seconds:.0f} s), "
            f"the suite and the start in {whole.seconds - fitting:.0f} s"
        )
    assert whole.seconds < LONGEST_S
    lines = whole.printed.splitlines()
    assert [line.split()[0] for line in lines] == list(TASKS)
    assert all("synthetic data" in line and "layer03" in line for line in lines)
    assert bench("validate", whole.out).count("agree with the outputs") == len(TASKS)


def test_every_result_says_what_it_is_of(whole: Whole) -> None:
    digests = set()
    for name, result in results(whole).items():
        but_times(whole.out, name)  # no NaN, no infinity
        task, spec = result.task, TASKS[name]
        assert (task["name"], task["data"], task["size"]) == (name, "synthetic", "tiny") and min(
            task["counts"].values()
        )
        home = whole.out / "suite-tiny" / spec.corpus
        assert task["counts"] == json.loads((home / "SYNTHETIC.json").read_text())["counts"][name]
        assert task["version"] == spec.version and set(result.protocol) == {*spec.switches, "features", "protocol"}
        assert result.model["name"] == "random-nano" and len(result.model["sha256"]) == 64
        assert result.limit is None and result.layer == "layer03" and result.lr == 5e-3
        fits = {(row["layer"], row["lr"], row["seed"]) for row in result.grid}  # of both scalings
        assert tuple(result.metrics) == spec.metrics and len(fits) == len(result.seeds) == 1
        low, high = result.score["ci95"]
        assert low <= high and np.isfinite([low, high]).all() and result.score["n"] >= task["counts"]["test"]
        assert set(result.seeds[0]["test"]) >= set(spec.metrics) and result.versions["torch"]
        digests.add(task["checksum"])
    assert len(digests) == len(TASKS)


def test_features_of_bfloat16_score_as_those_of_float32(whole: Whole, tmp_path: Path) -> None:
    """Paired over test items, the interval of the difference holds 0."""
    tasks, home = ("gtzan_genre", "nsynth_pitch", "emomusic"), whole.out / "suite-tiny"
    words = ("-m", "random-nano", "-t", ",".join(tasks), "--suite", "tiny", "--data-home", home, "-o", tmp_path)
    bench("run", *words, "--dtype", "bfloat16", *GRID)
    for task in tasks:
        paths = tmp_path / f"{task}.json", whole.out / f"{task}.json"
        short, exact = (Result.load(path) for path in paths)
        assert (short.model["dtype"], exact.model["dtype"]) == ("bfloat16", "float32")
        alike = replace(short, model=exact.model), exact  # results of two precisions are not compared otherwise
        samples = (Sample.of(found, load_outputs(path)) for found, path in zip(alike, paths, strict=True))
        low, high = compare(*samples).ci95
        assert low <= 0 <= high


@pytest.mark.parametrize("form", ["html", "md", "csv", "tex"])
def test_the_report_opens(form: str, whole: Whole) -> None:
    text = bench("report", whole.out, "--format", form)
    titles = [task.title for task in TASKS.values()]
    if form == "csv":
        rows = [row for row in csv.DictReader(io.StringIO(text)) if row["model"] == "random-nano"]
        assert {row["task"] for row in rows} == {*TASKS, "average"}
        assert {row["data"] for row in rows if row["task"] in TASKS} == {"synthetic"}
        return
    if form == "html":
        text = Page(text).text
    assert all(title in text for title in titles), [title for title in titles if title not in text]
    assert "average of all 14 tasks" in text and "ynthetic data" in text
    if form == "tex":
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") > 0


class Page(HTMLParser):
    """The text of a page of which every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self._open = "", list[str]()
        self.feed(page)
        assert not self._open and page.startswith("<!doctype html>")

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._open += [] if tag in ("meta", "img", "br") else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# Known answers


def test_a_trained_separation_lies_between_floor_and_ceiling(whole: Whole) -> None:
    songs = [load_stems(item.audio) for item in TASKS["musdb18"].read(whole.out / "suite-tiny").split("test")]
    floor = np.mean([global_sdrs(song.targets_JCN, mixture_as_estimate(song.mixture_CN)) for song in songs], axis=0)
    ideal = [separate(song.mixture_CN, ideal_masks(song.targets_JCN)) for song in songs]
    ceiling = np.mean([global_sdrs(*pair) for pair in zip([s.targets_JCN for s in songs], ideal, strict=True)], axis=0)
    result = results(whole)["musdb18"]
    trained = [result.metrics[f"sdr_{stem}"]["mean"] for stem in STEMS]
    assert (floor + 1 < trained).all() and (trained < ceiling).all(), (floor, trained, ceiling)
    for bound in (floor, ceiling):
        assert any(" ".join(f"{value:.2f}" for value in bound) in note for note in result.notes)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tagged corpora, with enough clips that fifty tags can be learnt from them; each lasts a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "many", dict.fromkeys(("magnatagatune", "mtg-jamendo"), Extent(150, 40, 50, 1.0)))
        return write_tree(tmp_path_factory.mktemp("tagged"), SIZES["many"], "many")


@pytest.mark.parametrize("name", CLIP_LEVEL)
def test_the_true_answer_is_found_in_every_corpus(name: str, whole: Whole, tagged: Path, tmp_path: Path) -> None:
    task, home = TASKS[name], tagged if name in TAGGED else whole.out / "suite-tiny"
    result = run(task, oracle(task, home), home, tmp_path, lrs=(5e-3, 1e-2), seeds=(0,))
    assert all(metric["mean"] >= 99 for metric in result.metrics.values()), result.metrics
    assert result.task["data"] == "synthetic"


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More keys and notes than `tiny` has, of a few seconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "some", {"giantsteps": Extent(150, 40, 100, 5.0), "nsynth": Extent(100, 22, 66, 1.5)})
        return write_tree(tmp_path_factory.mktemp("some"), SIZES["some"], "some")


def score_of(task: str, home: Path, out: Path, model: str) -> Sample:
    path = run_task(TASKS[task], load_encoder(model), home=home, out=out / model, features=out / "features",
                    options=Options(lrs=(1e-3, 5e-3), seeds=(0,), protocol={"features": "standardized"}))  # fmt: skip
    return Sample.of(Result.load(path), load_outputs(path))


@pytest.mark.parametrize(
    ("task", "better", "worse"),
    [("giantsteps_key", "cqt-chroma", "log-mel"), ("nsynth_instrument", "log-mel", "cqt-chroma")],
)
def test_chroma_tells_keys_apart_and_mel_instruments(
    task: str, better: str, worse: str, some: Path, tmp_path: Path
) -> None:
    found: Comparison = compare(*map(partial(score_of, task, some, tmp_path), (better, worse)))
    assert found.difference > 0 and found.ci95[0] > 0 and found.p < 0.01 and found.n in (66, 100), found
