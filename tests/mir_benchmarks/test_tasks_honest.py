"""Results are of what they say: of the function as it is, of the protocol that is named, of audio that was whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from harness.bench_runs import RATE_HZ, Small, bands, copied, run, split_labels, write_toy, write_tree
from harness.commands import Run, run_mert

from mert.errors import MertError, UsageError
from mir_benchmarks.conditions import differences, marks, signs
from mir_benchmarks.datasets.gtzan import GENRES
from mir_benchmarks.report.runs import clear_best, load_runs
from mir_benchmarks.report.tables import details_table, scores_table
from mir_benchmarks.report.validate import validated
from mir_benchmarks.tasks.separation import silent_stems
from probes.encoders import BASELINES, Encoder
from probes.results import Result, load_outputs
from probes.separation.stems import Stems

QUICK: dict[str, Any] = {"layers": ("embed",), "lrs": (1e-3,), "seeds": (0,), "max_epochs": 2}
TASK = "nsynth_pitch"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("suite"), ("nsynth", "emomusic"))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setitem(BASELINES, "small", Small)
    return lambda *words: run_mert("bench", *words)


def test_a_changed_function_is_run_again(suite: Path, tmp_path: Path) -> None:
    """The same name, the same folder: the features, the fits and the result are those of the new function."""
    facts, calls = replace(Small.FACTS, sha256=""), []

    def encoder(constant: float) -> Encoder:
        return Encoder(facts, lambda wave_N: calls.append(1) or bands(wave_N) * constant)

    first = run(TASK, encoder(1.0), suite, tmp_path, **QUICK)
    n_calls = len(calls)
    again = run(TASK, encoder(1.0), suite, tmp_path, overwrite=False, **QUICK)
    assert n_calls > 50 and first.score == again.score and first.model == again.model
    with pytest.raises(UsageError, match="made with another model"):
        run(TASK, encoder(0.0), suite, tmp_path, overwrite=False, **QUICK)
    silent = run(TASK, encoder(0.0), suite, tmp_path, **QUICK)
    fresh = run(TASK, encoder(0.0), suite, tmp_path / "fresh", **QUICK)
    assert silent.model["sha256"] != first.model["sha256"] and silent.grid == fresh.grid
    assert not np.ptp(load_outputs(tmp_path / f"{TASK}.json").outputs, axis=1).any()  # nothing is left of the features


# What may be compared


def test_what_was_fitted_otherwise_is_not_compared(suite: Path, tmp_path: Path) -> None:
    base = run(TASK, Small(), suite, tmp_path / "base", **QUICK)
    for name, changes in {
        "head": {"hidden": 0}, "layers": {"layers": ("embed", "layer01")}, "learning rates": {"lrs": (1e-3, 1e-2)},
        "seeds": {"seeds": (1,)}, "protocol": {"protocol": {"features": "raw"}},
    }.items():  # fmt: skip
        other = run(TASK, Small(), suite, tmp_path / name, features=tmp_path / "base" / "features", **QUICK | changes)
        assert differences(base, other) == differences(other, base) == [name]
    for name in ("dtype", "context"):
        assert differences(base, replace(base, model=base.model | {name: "other"})) == [name]
    one = run(TASK, Small(), suite, tmp_path / "one", **QUICK | {"layers": ("layer01",)})
    assert differences(base, one) == []  # a single layer each
    whole = run(TASK, Small(), suite, tmp_path / "whole", **QUICK | {"layers": None})
    fewer = replace(whole, model=whole.model | {"layer_names": ["embed"]}, grid=base.grid)
    assert differences(whole, base) == ["layers"] and differences(whole, fewer) == []  # every layer of each


def test_other_audio_under_the_same_names_is_not_compared(suite: Path, tmp_path: Path) -> None:
    corpus = copied(suite, "nsynth", tmp_path)
    before = run(TASK, Small(), suite, tmp_path / "before", **QUICK)
    victim = next((corpus / "nsynth-train" / "audio").glob("*.wav"))
    wave_N, rate_hz = soundfile.read(victim, dtype="int16")
    soundfile.write(victim, wave_N // 2, rate_hz)
    after = run(TASK, Small(), tmp_path, tmp_path / "after", **QUICK)
    assert differences(before, after) == ["audio"] and before.task["labels"] == after.task["labels"]
    at_other_rate = replace(after, model=after.model | {"sample_rate": 2 * RATE_HZ})
    assert differences(before, at_other_rate) == ["audio"]
    same = replace(before, model=before.model | {"sample_rate": 2 * RATE_HZ}, task=before.task | {"checksum": "other"})
    assert differences(before, same) == []  # the same files, decoded at another rate


def test_reports_say_what_is_not_alike_and_rank_nothing_of_it(suite: Path, tmp_path: Path) -> None:
    run(TASK, Small(), suite, tmp_path / "mlp", **QUICK)
    run(TASK, Small(), suite, tmp_path / "linear", **QUICK | {"hidden": 0, "lrs": (1e-3, 1e-2)})
    runs = load_runs([tmp_path / "mlp", tmp_path / "linear"])
    table = scores_table(runs)
    assert table.columns[-1] == "not alike in" and table.rows[0][-1] == "head, learning rates"
    assert not table.best and len(table.rows) == 1 and "‡" in table.rows[0][2] and "linear head" in table.note
    assert "~" in table.rows[0][2] and "fewer than 20 independent groups" in table.note
    details = details_table(runs)
    head, grid = (details.columns.index(name) for name in ("head", "grid"))
    assert [(row[head], row[grid]) for row in details.rows] == [
        ("mlp 512", "1! x 1! x 1! x 1!"), ("linear!", "1! x 1! x 2! x 1!"),
    ]  # fmt: skip
    assert clear_best(runs, TASK) is None


# Damage


def test_damaged_audio_is_told(bench: Callable[..., Run], tmp_path: Path) -> None:
    home = write_toy(tmp_path, "gtzan_genre", split_labels((20, 10, 10), lambda i: GENRES[i % 10]))
    audio = home / "gtzan" / "audio"
    random = np.random.default_rng(0)
    for path in audio.glob("*.wav"):
        soundfile.write(path, 0.1 * random.standard_normal(2 * RATE_HZ), RATE_HZ)
    whole = run("gtzan_genre", Small(), home, tmp_path / "whole", **QUICK)
    assert not [note for note in whole.notes if "warnings" in note or "shorter" in note] and "§" not in signs(whole)
    cut, silent, short = (audio / f"{name}.wav" for name in ("train-003", "test-001", "valid-002"))
    cut.write_bytes(cut.read_bytes()[:20_000])
    soundfile.write(silent, np.zeros(2 * RATE_HZ), RATE_HZ)
    soundfile.write(short, 0.1 * random.standard_normal(360), RATE_HZ)
    words = ("--lrs", "1e-3", "--seeds", 0, "--layers", "embed", "--max-epochs", 2, "--set", "features=standardized")
    said = bench("run", "-m", "small", "-t", "gtzan_genre", "--data-home", home, "-o", tmp_path / "out", *words)
    assert said.code == 0 and "(damaged)" in said.out
    result = Result.load(tmp_path / "out" / "gtzan_genre.json")
    (note,) = [note for note in result.notes if note.startswith("damaged: 2 of 40 recordings were read with warnings")]
    assert "train-003 (train): the header announces 2.00 s" in note and "test-001 (test): silent" in note
    assert "1 recordings are shorter than 0.1 s: audio/valid-002 (valid): 0.045 s" in result.notes
    assert "damaged" in marks(result) and "§" in signs(result)
    again = run("gtzan_genre", Small(), home, tmp_path / "out", **QUICK)  # features are kept, and so is the note
    assert note in again.notes
    assert "damaged: 2 of 40" in bench("report", tmp_path / "out").out


# MARBLE's protocol


def test_marbles_protocol_sets_what_it_can_and_names_the_rest(
    bench: Callable[..., Run], suite: Path, tmp_path: Path
) -> None:
    words = ("run", "-m", "small", "-t", "emomusic", "--data-home", suite, "--lrs", "1e-3", "--max-epochs", 2)
    assert bench(*words, "-o", tmp_path / "marble", "--protocol", "marble").code == 0
    assert bench(*words, "-o", tmp_path / "hub", "--seeds", 1234, "--raw", "--set", "emo_window=5s-of-30").code == 0
    marble, hub = (Result.load(tmp_path / name / "emomusic.json") for name in ("marble", "hub"))
    assert marble.protocol == {"protocol": "marble", "emo_window": "5s-of-30", "features": "raw"}
    assert [row["seed"] for row in marble.seeds] == [1234] and marble.model["dtype"] == "float32"
    assert marble.grid == hub.grid and marble.score == hub.score  # the same numbers by the single switches
    assert differences(marble, hub) == ["protocol"]
    assert [note for note in marble.notes if "window by window" in note and "16 bits" in note]
    assert not [note for note in hub.notes if "MARBLE" in note]


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--seeds", "0,1"), "seeds is (1234,)"), (("--set", "emo_window=15s"), "emo_window is 5s-of-30, not 15s")],
)
def test_marbles_protocol_is_not_half_followed(
    bench: Callable[..., Run], words: tuple[str, ...], said: str, suite: Path, tmp_path: Path
) -> None:
    start = ("run", "-m", "small", "-t", "emomusic", "--data-home", suite, "-o", tmp_path / "out")
    answer = bench(*start, "--protocol", "marble", *words)
    assert answer.code == 2 and said in " ".join(answer.err.split()) and not (tmp_path / "out").exists()


# Validation


@pytest.fixture(scope="module")
def whole(suite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a result of two layers, two scalings, two rates and two seeds."""
    folder = tmp_path_factory.mktemp("whole")
    options = QUICK | {"layers": ("embed", "layer01"), "lrs": (1e-3, 1e-2), "seeds": (0, 1)}
    options["protocol"] = {"features": "auto"}
    run(TASK, Small(), suite, folder, **options)
    return folder


CHANGES: dict[str, tuple[Callable[[dict], Any], str]] = {
    "a test score": (lambda v: v["seeds"][0]["test"].update(accuracy=99.0), "the test accuracy of seed 0"),
    "a validation score": (lambda v: v["seeds"][1]["valid"].update(accuracy=99.0), "the validation accuracy of seed 1"),
    "an epoch": (lambda v: v["seeds"][0].update(epoch=77), "the epoch of seed 0"),
    "a seed": (lambda v: v["seeds"][0].update(seed=9), "its seeds are"),
    "the layer": (lambda v: v.update(layer="layer99"), "its grid selects"),
    "the scaling": (lambda v: v.update(scaling="none"), "its grid selects"),
    "a fit's scaling": (lambda v: v["grid"][0].update(scaling="none"), "lacks points"),
    "the choice of scalings": (lambda v: v["protocol"].update(features="raw"), "lacks points"),
    "the groups": (lambda v: v["score"].update(groups=7), "the groups of score"),
    "the rate": (lambda v: v.update(lr=7.0), "its grid selects"),
    "a point of the grid": (lambda v: v["grid"].pop(), "lacks points"),
    "the grid's scores": (lambda v: [row.update(valid=row["valid"] / 2) for row in v["grid"]], "by its grid"),
    "a fit's epoch": (lambda v: v["grid"][2].update(epoch=55), "by its grid|journal"),
    "the notes": (lambda v: v.update(notes=["fine"]), "a note is missing"),
    "a note": (lambda v: v["notes"].append("fine"), "was changed"),
    "the model": (lambda v: v["model"].update(name="small", dtype="int8"), "not the one of the features"),
    "the model's name": (lambda v: v["model"].update(name="mert"), "was changed"),
    "the title": (lambda v: v["task"].update(title="GTZAN"), "the title of the task"),
    "the classes": (lambda v: v["task"]["classes"].reverse(), "classes are not those"),
    "the counts": (lambda v: v["task"]["counts"].update(test=11), "10 test recordings"),
    "the checksum": (lambda v: v["task"].update(checksum="ab"), "was changed"),
    "the head": (lambda v: v["head"].update(hidden=64), "was changed"),
    "the command": (lambda v: v.update(command=["mert"]), "was changed"),
    "the task": (lambda v: v["task"].update(name="nsynth_instrument"), "is of the task"),
    "an unknown task": (lambda v: v["task"].update(name="drums"), "is of the task"),
    "a metric": (lambda v: v["metrics"].update(f1=v["score"]), "its metrics are"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_whatever_is_changed_in_a_result_is_found(case: str, whole: Path, tmp_path: Path) -> None:
    change, said = CHANGES[case]
    values = json.loads((whole / f"{TASK}.json").read_text())
    for path in whole.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / f"{TASK}.json").unlink()
    change(values)
    (tmp_path / f"{TASK}.json").write_text(json.dumps(values))
    with pytest.raises(MertError, match=said) as caught:
        validated(tmp_path / f"{TASK}.json")
    assert f"{TASK}.json" in str(caught.value)


def test_what_cannot_be_computed_again_is_named(bench: Callable[..., Run], whole: Path, tmp_path: Path) -> None:
    assert validated(whole / f"{TASK}.json") == (1, 10, [])
    for name in (f"{TASK}.json", f"{TASK}.npz"):
        (tmp_path / name).symlink_to(whole / name)
    said = bench("validate", tmp_path)
    assert said.code == 0 and said.out.rstrip().endswith("not computed again: fits, model")
    arrays = dict(np.load(whole / f"{TASK}.npz"))
    del arrays["seal"]  # as of an older version
    (tmp_path / f"{TASK}.npz").unlink()
    np.savez(tmp_path / f"{TASK}.npz", **arrays)
    assert bench("validate", tmp_path).out.rstrip().endswith("fits, model, notes, labels, audio, command")


WRONG: dict[str, tuple[str, Any]] = {
    "grid": ("grid", [1, 2]), "grid as text": ("grid", "x"), "model": ("model", ["small"]), "task": ("task", "gtzan"),
    "metrics": ("metrics", {"accuracy": [1, 2]}), "score": ("score", {"mean": "high"}), "seeds": ("seeds", {"0": 1}),
    "notes": ("notes", "fine"), "note": ("notes", [1]), "layer": ("layer", None), "lr": ("lr", "1e-3"),
    "protocol": ("protocol", []), "limit": ("limit", 5), "head": ("head", 3), "command": ("command", "mert bench"),
    "interval": ("score", {"mean": 1.0, "ci95": [1.0], "seeds": [1.0], "n": 3}), "scaling": ("scaling", None),
    "versions": ("versions", [1]),
    "classes": ("task", {"name": TASK, "data": "real", "classes": 5}), "rows": ("grid", [{"layer": "embed"}]),
    "validation": ("seeds", [{"seed": 0, "valid": [1]}]), "schema": ("schema", "3"),
    "name": ("task", {"name": 5, "data": "real"}),
}  # fmt: skip


def test_outputs_that_do_not_belong_together_are_refused(
    bench: Callable[..., Run], whole: Path, tmp_path: Path
) -> None:
    arrays = dict(np.load(whole / f"{TASK}.npz"))
    (tmp_path / f"{TASK}.json").symlink_to(whole / f"{TASK}.json")
    for name, value in (
        ("outputs", arrays["outputs"][0]), ("outputs", arrays["outputs"][:, 1:]), ("outputs", arrays["outputs"][:0]),
        ("ids", arrays["ids"][:3]), ("columns", arrays["columns"][:3]), ("targets", arrays["targets"][:3]),
        ("outputs", arrays["outputs"].astype(str)), ("groups", arrays["groups"][:3]),
    ):  # fmt: skip
        np.savez(tmp_path / f"{TASK}.npz", **arrays | {name: value})
        for command in ("validate", "report"):
            said = bench(command, tmp_path)
            assert said.code == 1 and f"{TASK}.npz: its arrays do not belong together" in said.err


@pytest.mark.parametrize("change", [{"name": "mtt"}, {}])
def test_a_report_takes_results_of_the_task_only_that_their_file_names(
    change: dict, bench: Callable[..., Run], whole: Path, tmp_path: Path
) -> None:
    values = json.loads((whole / f"{TASK}.json").read_text())
    values["task"] |= change
    values["metrics"] = values["metrics"] if change else {}
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / f"{TASK}.json").write_text(json.dumps(values))
    said = bench("report", tmp_path / "small")
    assert said.code == 1 and f"{TASK}.json: is not a result of {TASK}" in said.err
    said = bench("report", tmp_path)
    assert said.code == 1 and f"holds no result; name its folders: {tmp_path / 'small'}" in said.err


@pytest.mark.parametrize("case", WRONG)
def test_results_of_another_form_are_refused_by_name(
    case: str, bench: Callable[..., Run], whole: Path, tmp_path: Path
) -> None:
    name, value = WRONG[case]
    values = json.loads((whole / f"{TASK}.json").read_text())
    (tmp_path / f"{TASK}.npz").symlink_to(whole / f"{TASK}.npz")
    (tmp_path / f"{TASK}.json").write_text(json.dumps(values | {name: value}))
    for command in (("validate", tmp_path), ("report", tmp_path), ("report", tmp_path, "-f", "csv")):
        said = bench(*command)
        assert said.code == 1 and f"{TASK}.json: is not a result ({name}" in said.err and "Traceback" not in said.err


# Hints


def test_what_is_known_of_a_broken_file_is_said_where_it_breaks(bench: Callable[..., Run], tmp_path: Path) -> None:
    home = write_toy(tmp_path, "gtzan_genre", split_labels((20, 10, 10), lambda i: GENRES[i % 10]))
    listed = home / "gtzan" / "gtzan_genre.train.jsonl"
    listed.write_text(listed.read_text().replace("train-005", "jazz.00054"))
    (home / "gtzan" / "audio" / "train-005.wav").unlink()
    (home / "gtzan" / "audio" / "jazz.00054.wav").write_bytes(b"RIFF nonsense")
    said = bench("run", "-m", "small", "-t", "gtzan_genre", "--data-home", home, "-o", tmp_path / "out")
    words = " ".join(said.err.split())
    assert said.code == 1 and "damaged in the copy on Kaggle" in words and "--set gtzan_jazz54=drop" in words
    assert "mend what the errors name, then run the same command again" in words


def test_stems_that_are_silent_are_named() -> None:
    targets_JCN = np.random.default_rng(0).standard_normal((4, 2, 100)).astype(np.float32)
    whole = Stems(targets_JCN.sum(axis=0), targets_JCN)
    silent = Stems(whole.mixture_CN, targets_JCN * np.array([1, 0, 1, 1], np.float32)[:, None, None])
    assert silent_stems({"a": lambda: whole}) == []
    (note,) = silent_stems({"a": lambda: whole, "b": lambda: silent})
    assert note.startswith("1 stems of test songs are silent throughout: drums of b; ")
