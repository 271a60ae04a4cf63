"""`mert bench run` held to its word: known answers, leaks told, no early look at test, runs resumed, faults named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from harness.bench_runs import (
    Small,
    altered,
    beat_oracle,
    but_times,
    claim_counts,
    copied,
    live,
    metronome,
    oracle,
    run,
    shuffled,
    split_labels,
    write_toy,
    write_tree,
)
from harness.commands import Run, run_mert

from mert.errors import MertError, UsageError
from mir_benchmarks.datasets.dataset import Dataset
from mir_benchmarks.datasets.giantsteps import KEYS
from mir_benchmarks.datasets.gtzan import GENRES
from mir_benchmarks.suite.sizes import SIZES, Extent
from mir_benchmarks.tasks.beats import BeatTask
from mir_benchmarks.tasks.registry import TASKS
from mir_benchmarks.tasks.separation import SeparationTask
from probes.beats.tracking import Tracking, beat_scores, beat_targets
from probes.clip_probe import ClipProbe
from probes.encoders import BASELINES, Encoder, EncoderFacts
from probes.results import Result, load_outputs
from probes.separation.sdr import global_sdrs, ideal_masks, mixture_as_estimate
from probes.separation.stems import load_stems
from probes.separation.unmix import separate

TOYS = {
    "classification": "gtzan_genre",
    "key": "giantsteps_key",
    "multilabel": "mtg_moodtheme",
    "regression": "emomusic",
}
TAGS = tuple(f"mood/theme---{i}" for i in range(6))
QUICK: dict[str, Any] = {"layers": ("embed",), "lrs": (1e-3, 5e-3), "seeds": (0,), "max_epochs": 3}
EVERY: dict[str, Any] = {"lrs": (1e-3, 1e-2), "seeds": (0, 1), "max_epochs": 8}  # four layer options of Small


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three corpora of the tiny suite, and songs of two seconds."""
    home = write_tree(tmp_path_factory.mktemp("suite"), ("gtzan", "nsynth", "mtg-jamendo"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES, "songs", {"musdb18": Extent(2, 1, 1, 2.0)})
        return write_tree(home, ["musdb18"], "songs")


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree for each kind of clip-level task, with labels that no sound tells, evenly spread."""
    home, random = tmp_path_factory.mktemp("toys"), np.random.default_rng(1)
    draw: dict[str, Callable[[int], Any]] = {
        "classification": lambda i: GENRES[i % 10],
        "key": lambda i: KEYS[i % 24],
        "multilabel": lambda i: [tag for tag in TAGS if random.random() < 0.4] or [TAGS[i % 6]],
        "regression": lambda i: [4.8 + 1.4 * random.standard_normal(), 5.0 + 1.2 * random.standard_normal()],
    }
    for kind, task in TOYS.items():
        write_toy(home, task, split_labels((120, 48, 120), draw[kind]))
    return home


# Known answers


@pytest.mark.parametrize("kind", TOYS)
def test_the_true_answer_is_found(kind: str, toys: Path, tmp_path: Path) -> None:
    task = TASKS[TOYS[kind]]
    result = run(task, oracle(task, toys), toys, tmp_path, lrs=(1e-2,), seeds=(0,))
    assert result.score["mean"] >= 99 and all(metric["mean"] >= 99 for metric in result.metrics.values())


@pytest.mark.parametrize("kind", TOYS)
def test_shuffled_labels_stay_at_chance(kind: str, toys: Path, tmp_path: Path) -> None:
    """Features that hold the true answer, and labels of train and valid that are permuted: the truth must not leak."""
    task = TASKS[TOYS[kind]]
    encoder = oracle(task, toys, nuisance=16 if kind == "regression" else 400)
    points: dict[str, Any] = {"lrs": (1e-3, 5e-3), "seeds": (0, 1)}
    metrics = run(altered(task, shuffled("train", "valid")), encoder, toys, tmp_path, **points).metrics
    positives = np.mean([len(item.label or ()) / len(TAGS) for item in TASKS["mtg_moodtheme"].read(toys).split("test")])
    chance = {
        "classification": {"accuracy": 100 / 10},
        "key": {"weighted_score": 100 * (1 + 0.5 + 0.3 + 0.2) / 24, "accuracy": 100 / 24},
        "multilabel": {"roc_auc": 50.0, "ap": 100 * positives},
        "regression": {"r2_valence": 0.0, "r2_arousal": 0.0},
    }[kind]
    told = run(task, encoder, toys, tmp_path, **points).metrics  # the truth could be found in these features
    for name, expected in chance.items():
        low, high = metrics[name]["ci95"]
        assert high - low < 30 and told[name]["mean"] > high + 5, name
        assert low <= expected and (kind == "regression" or expected <= high), name
        assert kind != "regression" or metrics[name]["mean"] < 3


def test_beats_have_a_floor_and_a_ceiling_and_the_truth_is_learnt(suite: Path, tmp_path: Path) -> None:
    dataset = TASKS["gtzan_beats"].read(suite)
    times_T = np.arange(6 * 75) / 75
    beats = {item.id: np.array(item.label) for item in dataset.items}
    floor = {name: beat_scores(of, metronome(6.0)).f_measure for name, of in beats.items()}
    ceiling = [Tracking("dbn").score(of, beat_targets(of, times_T), times_T).f_measure for of in beats.values()]
    assert np.mean(list(floor.values())) < 0.6 and np.mean(ceiling) >= 0.95
    result = run("gtzan_beats", beat_oracle(suite), suite, tmp_path, lrs=(5e-3,), seeds=(0,), max_epochs=25)
    assert result.metrics["f_dbn"]["mean"] >= 95 and result.metrics["f_peak"]["mean"] >= 95
    assert result.score == result.metrics["f_dbn"] and result.task["data"] == "synthetic"


def test_separation_has_a_floor_and_a_ceiling(suite: Path) -> None:
    for item in TASKS["musdb18"].read(suite).items:
        song = load_stems(item.audio)
        floor = global_sdrs(song.targets_JCN, mixture_as_estimate(song.mixture_CN))
        ceiling = global_sdrs(song.targets_JCN, separate(song.mixture_CN, ideal_masks(song.targets_JCN)))
        assert (floor < 3).all() and (ceiling > floor + 6).all(), item.id


# Leaks


def test_a_recording_of_train_in_test_is_told_in_another_container(suite: Path, tmp_path: Path) -> None:
    corpus = copied(suite, "nsynth", tmp_path)
    dataset = TASKS["nsynth_pitch"].read(tmp_path)
    train, test = dataset.split("train")[3], dataset.split("test")[4]
    wave_N, rate_hz = soundfile.read(train.audio, dtype="int16")
    test.audio.unlink()
    soundfile.write(test.audio.with_suffix(".flac"), wave_N, rate_hz)
    examples = json.loads((corpus / "nsynth-test" / "examples.json").read_text())
    examples[test.id]["instrument_str"] = train.artist
    (corpus / "nsynth-test" / "examples.json").write_text(json.dumps(examples))
    notes = run("nsynth_pitch", Small(), tmp_path, tmp_path / "out", **QUICK).notes
    pair = {f"{train.id} (train)", f"{test.id} (test)"}
    (leak,) = [note for note in notes if note.startswith("leak: ")]
    assert leak.startswith("leak: 1 recordings occur in two splits: ")
    assert set(leak.rpartition(": ")[2].split(" = ")) == pair
    assert any("of the 10 test instruments also occur in train" in note and note.startswith("1 ") for note in notes)
    clean = run("nsynth_pitch", Small(), suite, tmp_path / "clean", **QUICK).notes
    assert not [note for note in clean if "leak" in note or "also occur" in note]


def test_a_song_of_train_in_test_is_told_under_another_name(suite: Path, tmp_path: Path) -> None:
    corpus = copied(suite, "musdb18", tmp_path)
    songs = {"musdb_segments": "4", "musdb_hidden": "64"}
    untouched = run(
        "musdb18", Small(), tmp_path, tmp_path / "a", protocol=songs, **QUICK | {"lrs": (1e-3,), "max_epochs": 1}
    )
    assert not [note for note in untouched.notes if "leak" in note]
    song = TASKS["musdb18"].read(tmp_path).split("train")[0]
    shutil.copytree(song.audio.parent, corpus / "test" / f"{song.artist} - Another Name")
    claim_counts(corpus, "musdb18", test=2)
    told = run(
        "musdb18", Small(), tmp_path, tmp_path / "b", protocol=songs, **QUICK | {"lrs": (1e-3,), "max_epochs": 1}
    )
    (leak,) = [note for note in told.notes if note.startswith("leak: 1 ")]
    assert f"{song.id} (train)" in leak and "Another Name (test)" in leak
    assert "1 of the 2 test artists also occur in train" in told.notes
    assert untouched.task["checksum"] != told.task["checksum"]


# Selection


def test_test_labels_and_the_order_of_files_change_no_choice(suite: Path, tmp_path: Path) -> None:
    task, features = TASKS["nsynth_instrument"], tmp_path / "features"
    run(task, Small(), suite, tmp_path / "a", features=features, **EVERY)
    run(altered(task, shuffled("test")), Small(), suite, tmp_path / "b", features=features, **EVERY)
    run(altered(task, backwards), Small(), suite, tmp_path / "c", **EVERY)
    plain, other, reverse = (but_times(tmp_path / name, task.name) for name in "abc")
    assert len(plain["grid"]) == 16 and len({(row["layer"], row["lr"]) for row in plain["grid"]}) == 8
    assert [plain[name] for name in ("grid", "layer", "lr")] == [other[name] for name in ("grid", "layer", "lr")]
    assert [seed["valid"] for seed in plain["seeds"]] == [seed["valid"] for seed in other["seeds"]]
    assert plain["arrays"]["outputs"] == other["arrays"]["outputs"] and plain["metrics"] != other["metrics"]
    assert plain == reverse


def backwards(dataset: Dataset) -> Dataset:
    return replace(dataset, items=dataset.items[::-1])


def test_test_is_scored_once_a_seed_at_what_validation_chose(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    honest = ClipProbe.outputs
    monkeypatch.setattr(ClipProbe, "outputs", lambda *words: asked.append(words[1].setting) or honest(*words))
    result = run("nsynth_instrument", Small(), suite, tmp_path, **EVERY)
    assert [(at.layer, at.lr, at.seed) for at in asked] == [(result.layer, result.lr, seed) for seed in (0, 1)]
    means: dict[tuple[str, float], list[float]] = {}
    for row in result.grid:
        means.setdefault((row["layer"], row["lr"]), []).append(row["valid"])
    assert np.mean(means[result.layer, result.lr]) == max(np.mean(values) for values in means.values())
    heard: list[Any] = []
    scored = BeatTask.outputs
    monkeypatch.setattr(BeatTask, "outputs", lambda *words: heard.append(words[1]) or scored(*words))
    beats = run("gtzan_beats", Small(), suite, tmp_path, **QUICK | {"max_epochs": 1})
    assert [(fit.lr, fit.seed) for fit in heard] == [(beats.lr, 0)]
    taken: list[Any] = []
    part = SeparationTask.outputs
    monkeypatch.setattr(SeparationTask, "outputs", lambda *words: taken.append(words[1]) or part(*words))
    songs = {"musdb_segments": "4", "musdb_hidden": "64"}
    stems = run("musdb18", Small(), suite, tmp_path, protocol=songs, **QUICK | {"max_epochs": 1})
    assert [[head.lr for head in fitted.heads] for fitted in taken] == [[stems.lr] * 4]


def test_a_head_that_diverges_is_no_end_of_the_grid(suite: Path, tmp_path: Path) -> None:
    result = run("nsynth_instrument", Small(), suite, tmp_path, **QUICK | {"lrs": (1e-3, 1e30)})
    assert result.lr == 1e-3 and [row["valid"] is None for row in result.grid] == [False, True]
    assert but_times(tmp_path, "nsynth_instrument")["grid"] == result.grid


# Once is enough


def test_stems_that_are_corrected_are_scored_anew(suite: Path, tmp_path: Path) -> None:
    """Those of a validation song change neither a mixture nor a training segment."""
    copied(suite, "musdb18", tmp_path)
    words = {**QUICK, "protocol": {"musdb_segments": "4", "musdb_hidden": "64"}, "max_epochs": 1, "lrs": (1e-3,)}
    before = run("musdb18", Small(), tmp_path, tmp_path / "out", **words)
    song = TASKS["musdb18"].read(tmp_path).split("valid")[0].audio.parent
    for one, other in (("vocals.wav", "kept"), ("other.wav", "vocals.wav"), ("kept", "other.wav")):
        (song / one).rename(song / other)
    after = run("musdb18", Small(), tmp_path, tmp_path / "out", **words)
    assert after.grid != before.grid
    assert after.grid == run("musdb18", Small(), tmp_path, tmp_path / "new", **words).grid


def test_four_subsets_of_jamendo_are_heard_once_and_a_second_run_hears_nothing(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [task for task in TASKS.values() if task.corpus == "mtg-jamendo"]
    tracks = [{item.id for item in task.read(suite).items} for task in tasks]
    union = set().union(*tracks)
    assert len(tasks) == 4 and sum(map(len, tracks)) > 3 * len(union)
    encoder, again = Small(), Small()
    for task in tasks:
        run(task, encoder, suite, tmp_path, **QUICK)
    assert encoder.heard == len(union)
    first = [but_times(tmp_path, task.name) for task in tasks]
    fits: list[Any] = []
    honest = ClipProbe.fit
    monkeypatch.setattr(ClipProbe, "fit", lambda probe, at: fits.extend(at) or honest(probe, at))
    for task in tasks:
        run(task, again, suite, tmp_path, **QUICK)
    assert again.heard == 0 and first == [but_times(tmp_path, task.name) for task in tasks]
    chosen = [(values["layer"], values["lr"], 0) for values in first]
    assert [
        (at.layer, at.lr, at.seed) for at in fits
    ] == chosen  # its head, for the outputs; no other point of the grid


@pytest.mark.parametrize(
    ("task", "clip", "fit", "grid"),
    [
        pytest.param("nsynth_pitch", 30, 11, EVERY, marks=pytest.mark.check),
        ("gtzan_beats", 25, 2, QUICK | {"layers": ("embed", "all"), "max_epochs": 2}),
    ],
)
def test_a_killed_run_goes_on_to_the_same_end(
    task: str, clip: int, fit: int, grid: dict[str, Any], suite: Path, tmp_path: Path
) -> None:
    assert live(suite, tmp_path / "whole", task, **grid) == 0
    assert live(suite, tmp_path / "cut", task, clip=clip, **grid) == -9
    assert live(suite, tmp_path / "cut", task, fit=fit, **grid) == -9
    assert not (tmp_path / "cut" / f"{task}.json").exists()
    lines = (tmp_path / "cut" / "journals" / f"{task}.jsonl").read_text().splitlines()
    assert len(lines) == fit
    # Nothing is heard again, so a run that would die at the first window lives.
    assert live(suite, tmp_path / "cut", task, clip=1, **grid) == 0
    assert but_times(tmp_path / "cut", task) == but_times(tmp_path / "whole", task)


# The command and its faults


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """`mert bench ...` in this process; "small" is the name of our encoder, "deaf" of one that gives NaN."""
    facts = EncoderFacts("deaf", "2" * 64, 8_000, 1.0, ("embed",), 1)
    monkeypatch.setitem(BASELINES, "small", Small)
    monkeypatch.setitem(BASELINES, "deaf", lambda: Encoder(facts, lambda wave_N: np.full((1, 1, 1), np.nan)))

    def command(*words: object) -> Run:
        done = run_mert("bench", *words)
        return done._replace(err=" ".join(done.err.split()))

    return command


def options(tasks: str, home: Path, out: Path, *more: object, model: str = "small") -> tuple[object, ...]:
    """Words of a quick run."""
    quick: tuple[object, ...] = () if "--lrs" in more else ("--lrs", "1e-3", "--seeds", 0)
    quick += () if {"--lrs", "--raw"} & {*more} else ("--set", "features=standardized")
    return ("run", "-m", model, "-t", tasks, "--data-home", home, "-o", out, "--max-epochs", 2, *quick, *more)


def test_missing_datasets_are_named_with_what_to_get_and_where_it_goes(
    bench: Callable[..., Run], suite: Path, tmp_path: Path
) -> None:
    said = bench(*options("mtt,gtzan_genre,musdb18", suite.parent / "none", tmp_path / "out"))
    assert said.code == 1 and "3 datasets are missing" in said.err and not (tmp_path / "out").exists()
    for corpus, words in (
        ("magnatagatune", "annotations_final.csv"),
        ("gtzan", "genres/<genre>"),
        ("musdb18", "3338373"),
    ):
        assert f"{suite.parent / 'none' / corpus}: " in said.err and words in said.err
    assert bench("run", "-m", "small", "-t", "mtt", "-o", tmp_path).code == 2


def test_a_real_tree_of_other_counts_is_refused_unless_limited(
    bench: Callable[..., Run], suite: Path, tmp_path: Path
) -> None:
    (copied(suite, "gtzan", tmp_path) / "SYNTHETIC.json").unlink()
    said = bench(*options("gtzan_genre", tmp_path, tmp_path / "out"))
    assert said.code == 1 and "'train': 443" in said.err and "'train': 20" in said.err and "--limit" in said.err
    assert not list((tmp_path / "out").glob("*.json"))
    said = bench(*options("gtzan_genre", tmp_path, tmp_path / "out", "--limit", 6))
    assert said.code == 0 and "not comparable" in said.out and "real data" in said.out
    result = Result.load(tmp_path / "out" / "gtzan_genre.json")
    assert result.limit == "6 items of each split, at most 2 epochs" and result.task["counts"] == {
        "train": 6,
        "valid": 6,
        "test": 6,
    }
    valid = {item.id for item in TASKS["gtzan_genre"].read(suite).split("valid")}
    for path in (tmp_path / "gtzan" / "genres").glob("*/*"):  # the official validation list, gone
        if path.stem in valid:
            path.unlink()
    said = bench(*options("gtzan_genre", tmp_path, tmp_path / "other", "--limit", 6))
    assert said.code == 1 and "no items in valid" in said.err


def test_a_generated_tree_must_hold_what_it_claims(bench: Callable[..., Run], suite: Path, tmp_path: Path) -> None:
    claim_counts(copied(suite, "nsynth", tmp_path), "nsynth_pitch", valid=11)
    said = bench(*options("nsynth_pitch,nsynth_instrument", tmp_path, tmp_path / "out"))
    assert said.code == 1 and "'valid': 11" in said.err and "1 of 2 tasks failed" in said.err
    assert "nsynth_instrument" in said.out and "synthetic data" in said.out  # the others are run nevertheless
    said = bench(*options("nsynth_pitch", tmp_path, tmp_path / "out", "--limit", 5))
    assert said.code == 0 and "synthetic data" in said.out and "not comparable" in said.out


@pytest.mark.parametrize("constant", ["train", "test"])
def test_constant_targets_are_refused(bench: Callable[..., Run], constant: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = split_labels((8, 4, 4), lambda i: random.uniform(1, 9, 2).tolist())
    labels[constant] = [[arousal, 5.0] for arousal, _ in labels[constant]]
    said = bench(*options("emomusic", write_toy(tmp_path, "emomusic", labels), tmp_path / "out"))
    assert said.code == 1 and f"emomusic: valence is the same in all {len(labels[constant])} {constant}" in said.err


def test_features_that_are_nan_are_refused(bench: Callable[..., Run], suite: Path, tmp_path: Path) -> None:
    said = bench(*options("nsynth_pitch", suite, tmp_path, model="deaf"))
    assert said.code == 1 and "NaN" in said.err and ".wav" in said.err and not list(tmp_path.glob("*.json"))


def test_an_unreadable_recording_ends_its_task_only(bench: Callable[..., Run], suite: Path, tmp_path: Path) -> None:
    corpus = copied(suite, "nsynth", tmp_path)
    victim = TASKS["nsynth_pitch"].read(tmp_path).split("valid")[2].audio
    data = victim.read_bytes()
    victim.write_bytes(b"RIFF nonsense")
    shutil.copytree(suite / "gtzan", tmp_path / "gtzan")
    said = bench(*options("nsynth_pitch,gtzan_genre", tmp_path, tmp_path / "out"))
    assert (
        said.code == 1 and victim.name in said.err and "1 of 2 tasks failed" in said.err and "gtzan_genre" in said.out
    )
    assert corpus.is_dir() and [path.stem for path in (tmp_path / "out").glob("*.json")] == ["gtzan_genre"]
    victim.write_bytes(data)
    assert bench(*options("nsynth_pitch,gtzan_genre", tmp_path, tmp_path / "out")).code == 0
    shutil.rmtree(tmp_path / "out" / "features")
    fresh, whole = (but_times(tmp_path / "out", "nsynth_pitch"), tmp_path / "whole")
    bench(*options("nsynth_pitch", suite, whole))
    assert but_times(whole, "nsynth_pitch") == fresh


def test_classes_that_train_or_test_lack_are_noted(bench: Callable[..., Run], tmp_path: Path) -> None:
    labels = split_labels((18, 9, 9), lambda i: GENRES[i % 9])
    labels["test"][0] = "rock"
    home = write_toy(tmp_path, "gtzan_genre", labels)
    assert bench(*options("gtzan_genre", home, tmp_path / "out")).code == 0
    notes = Result.load(tmp_path / "out" / "gtzan_genre.json").notes
    assert "1 of the 10 classes have no train item: rock" in notes and "no training item has: rock" in notes
    assert "1 of the 10 classes have no test item: blues" in notes


def test_ids_may_hold_any_sign(tmp_path: Path) -> None:
    """Windows of a recording are told apart by "#", which names of keys and songs hold as well."""
    home = write_toy(tmp_path, "giantsteps_key", split_labels((24, 24, 24), lambda i: KEYS[i]))
    corpus = home / "giantsteps"
    for name in ("train", "valid", "test"):
        lines = (corpus / f"giantsteps_key.{name}.jsonl").read_text()
        (corpus / f"giantsteps_key.{name}.jsonl").write_text(lines.replace(f"{name}-001", f"{name} # F# minor"))
        (corpus / "audio" / f"{name}-001.wav").rename(corpus / "audio" / f"{name} # F# minor.wav")
    assert run("giantsteps_key", Small(), home, tmp_path / "out", **QUICK).score["n"] == 24


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "beat_tol=0.02"), "'beat_tol=0.02' is no switch of these tasks"),
        (("--set", "gtzan_jazz54=maybe"), "gtzan_jazz54 cannot be 'maybe'; give one of keep, drop"),
        (("--set", "gtzan_jazz54"), "is no switch"),
        (("--layers", "layer02,layer09"), "no layer 'layer09'; give some of embed, layer01, layer02, all"),
        (("--lrs", "fast"), "give numbers"),
        (("--lrs", "1e-3", "--seeds", "1,1"), "hold one twice"),
        (("-t", "gtzan_gender"), "no task gtzan_gender"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_heard(
    bench: Callable[..., Run], words: tuple[str, ...], said: str, suite: Path, tmp_path: Path
) -> None:
    answer = bench(*options("gtzan_genre", suite, tmp_path / "out", *words))
    assert answer.code == 2 and said in answer.err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("task", ["gtzan_genre", "gtzan_beats", "musdb18"])
def test_run_task_itself_knows_no_layer_that_is_none(task: str, suite: Path, tmp_path: Path) -> None:
    small = Small()
    with pytest.raises(UsageError, match="no layer 'layer09'"):
        run(task, small, suite, tmp_path, layers=("layer09",))
    assert small.heard == 0


# Results


def test_a_result_says_what_it_is_of(bench: Callable[..., Run], suite: Path, tmp_path: Path) -> None:
    assert bench(*options("gtzan_genre", suite, tmp_path, "--lrs", "1e-3,1e-2", "--seeds", "0,1")).code == 0
    values = but_times(tmp_path, "gtzan_genre")
    assert values["schema"] == 3 and values["limit"] is None and values["device"] == "cpu"
    assert {name: values["model"][name] for name in ("name", "revision", "sha256", "normalize", "context")} == {
        "name": "small", "revision": None, "sha256": "1" * 64, "normalize": False, "context": "window",
    }  # fmt: skip
    task = values["task"]
    assert (task["name"], task["version"], task["data"], task["size"]) == ("gtzan_genre", "1", "synthetic", "tiny")
    assert task["counts"] == {"train": 20, "valid": 10, "test": 10} and len(task["checksum"]) == 64
    assert task["classes"] == list(GENRES)
    assert values["protocol"] == {"protocol": "hub", "gtzan_jazz54": "keep", "features": "auto"}
    assert values["scaling"] in ("standardized", "raw") and values["score"]["groups"] == 10
    assert values["head"]["hidden"] == 512 and values["head"]["max_epochs"] == 2
    assert len(values["grid"]) == 4 * 2 * (2 + 1)  # both scalings with the first seed, one of them with the other
    assert {values["layer"]} <= {"embed", "layer01", "layer02", "all"}
    assert [seed["seed"] for seed in values["seeds"]] == [0, 1]
    accuracy = values["metrics"]["accuracy"]
    assert [seed["test"]["accuracy"] for seed in values["seeds"]] == accuracy["seeds"]
    assert accuracy["mean"] == np.mean(accuracy["seeds"]) and accuracy == values["score"] and accuracy["n"] == 10
    assert accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1]
    assert {"python", "mert-hub", "torch", "numpy", "scikit-learn", "mir_eval"} <= set(values["versions"])


def test_numbers_are_computed_again_from_the_outputs(bench: Callable[..., Run], suite: Path, tmp_path: Path) -> None:
    run("nsynth_pitch", Small(), suite, tmp_path, **QUICK)
    said = bench("validate", tmp_path)
    assert said.code == 0 and "nsynth_pitch.json: 1 metrics of 10 items agree" in said.out
    path = tmp_path / "nsynth_pitch.json"
    honest = path.read_text()
    for where, key, value in (("score", "mean", 99.0), ("accuracy", "mean", 99.0), ("accuracy", "ci95", [98.0, 100.0]),
                              ("accuracy", "seeds", [99.0, 99.0]), ("score", "n", 1_000)):  # fmt: skip
        values = json.loads(honest)
        (values["score"] if where == "score" else values["metrics"][where])[key] = value
        path.write_text(json.dumps(values))
        said = bench("validate", tmp_path)
        assert said.code == 1 and f"the {key} of {where}" in said.err and "nsynth_pitch.json" in said.err
    path.write_text(honest)
    (tmp_path / "nsynth_pitch.npz").unlink()
    assert bench("validate", tmp_path).code == 1
    path.write_text(honest.replace('"schema": 3', '"schema": 4'))
    with pytest.raises(MertError, match="schema 4"):
        Result.load(path)


def test_a_result_of_an_earlier_schema_is_read_and_says_what_it_lacks(
    bench: Callable[..., Run], suite: Path, tmp_path: Path
) -> None:
    run("nsynth_pitch", Small(), suite, tmp_path, **QUICK)
    path = tmp_path / "nsynth_pitch.json"
    values, outputs = json.loads(path.read_text()), load_outputs(path)
    instruments = {item.artist for item in TASKS["nsynth_pitch"].read(suite).split("test")}
    assert outputs.groups is not None and set(outputs.groups) == instruments
    with np.load(path.with_suffix(".npz")) as held:
        arrays = {name: held[name] for name in held.files if name not in ("groups", "seal")}
    np.savez(path.with_suffix(".npz"), **arrays)
    for summary in (values["score"], *values["metrics"].values()):
        del summary["groups"]
        summary["ci95"] = [0.0, 1.0]  # of a bootstrap over items
    del values["scaling"], values["date"]
    for row in values["grid"]:
        del row["scaling"]
    path.write_text(json.dumps(values | {"schema": 2}))
    assert Result.load(path).scaling == "standardized"
    assert bench("validate", tmp_path).code == 0
    report = bench("report", tmp_path)
    assert report.code == 0 and "are not on record" in report.out


def test_a_result_that_was_made_otherwise_is_replaced_only_if_asked(suite: Path, tmp_path: Path) -> None:
    task, path = "nsynth_pitch", tmp_path / "nsynth_pitch.json"
    first = run(task, Small(), suite, tmp_path, **QUICK)
    again = run(task, Small(), suite, tmp_path, overwrite=False, **QUICK)
    assert (again.score, again.grid) == (first.score, first.grid)
    written = path.read_bytes()
    other = Small()
    other.facts = replace(other.facts, sha256="2" * 64)
    for encoder, changes, said in (
        (other, {}, "model"), (Small(), {"seeds": (1,)}, "grid"), (Small(), {"limit": 5}, "limit"),
        (Small(), {"hidden": 0}, "head"), (Small(), {"max_epochs": 1}, "head"),
        (Small(), {"protocol": {"features": "raw"}}, "protocol"), (other, {"lrs": (1e-2,)}, "model and grid"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"is the result of small, made with another {said}; give another -o"):
            run(task, encoder, suite, tmp_path, overwrite=False, **(QUICK | changes))
        assert encoder.heard == 0 and path.read_bytes() == written
    assert run(task, other, suite, tmp_path, **QUICK).model["sha256"] == "2" * 64


def test_another_recording_is_another_checksum(suite: Path, tmp_path: Path) -> None:
    corpus = copied(suite, "nsynth", tmp_path)
    before = run("nsynth_pitch", Small(), tmp_path, tmp_path / "out", **QUICK).task["checksum"]
    victim = next((corpus / "nsynth-train" / "audio").glob("*.wav"))
    wave_N, rate_hz = soundfile.read(victim, dtype="int16")
    soundfile.write(victim, wave_N[::-1], rate_hz)
    with pytest.raises(UsageError, match="is the result of small, made with another audio; give another -o"):
        run("nsynth_pitch", Small(), tmp_path, tmp_path / "out", overwrite=False, **QUICK)
    assert Result.load(tmp_path / "out" / "nsynth_pitch.json").task["checksum"] == before
    assert run("nsynth_pitch", Small(), tmp_path, tmp_path / "out", **QUICK).task["checksum"] != before


def test_raw_features_are_other_fits(suite: Path, tmp_path: Path, bench: Callable[..., Run]) -> None:
    """The journal of a standardised run gives nothing to a raw one in the same folder."""
    for folder, more in (("same", ()), ("same", ("--raw", "--overwrite")), ("fresh", ("--raw",))):
        assert bench(*options("gtzan_beats", suite, tmp_path / folder, *more)).code == 0
    same, fresh = (Result.load(tmp_path / folder / "gtzan_beats.json") for folder in ("same", "fresh"))
    assert same.grid == fresh.grid and same.protocol["features"] == "raw"
    journal = (tmp_path / "same" / "journals" / "gtzan_beats.jsonl").read_text().splitlines()
    assert len({json.loads(line)["key"] for line in journal}) == 2
