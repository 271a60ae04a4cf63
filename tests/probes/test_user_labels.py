"""Heads for labels of one's own, through the command: fitted, kept, used again, and refused where they must be."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
import torch
from harness.commands import Run, run_mert
from harness.sounds import tiny_embedder

import mert
from mert import Features, MertError
from mert.describe.head import HeadError, SavedHead
from probes.features.files import FeatureFiles
from probes.user_labels.copies import copies, keep_together
from probes.user_labels.fit import FitOptions, fit_head
from probes.user_labels.matching import match_features
from probes.user_labels.splits import split
from probes.user_labels.table import LabelError, LabelledFile, LabelTable, read_labels

RATE_HZ = 24_000
INSTRUMENTS = ("flute", "harp")
QUICK = ("--lrs", "1e-3", "--seeds", "0,1", "-d", "cpu")
META: dict[str, Any] = {
    "model": "m", "weights_sha256": "0" * 64, "pool": "mean", "window": 1.0, "hop": 1.0, "window_frames": 74,
    "hop_frames": 74, "normalize": False, "dtype": "float32", "sample_rate": RATE_HZ,
}  # fmt: skip


class House(NamedTuple):
    """Two models, 30 tones of two instruments, and the features of the first model."""

    model: Path
    other: Path
    audio: Path
    features: Path
    frames: Path


def tone(instrument: str, seed: int) -> np.ndarray:
    """Half a second of a breathy flute, or of a plucked harp, on one of four pitches."""
    random = np.random.default_rng(seed)
    t = np.arange(RATE_HZ // 2) / RATE_HZ
    turns = 2 * np.pi * (220.0, 262.0, 330.0, 392.0)[seed % 4] * (t + random.uniform(0, 0.1))
    if instrument == "flute":
        wave = 0.3 * np.sin(turns) + 0.03 * random.standard_normal(len(t))
    else:
        wave = 0.5 * np.exp(-12 * t) * sum(np.sin(k * turns) / k for k in range(1, 9))
    return wave.astype(np.float32)


def clicks(seed: int) -> tuple[np.ndarray, list[float]]:
    """Three seconds of noise bursts at random times, and the times."""
    random = np.random.default_rng(seed)
    times = np.cumsum(random.uniform(0.3, 0.5, 6))
    wave = 0.001 * random.standard_normal(3 * RATE_HZ)
    for beat_s in times:
        at = round(beat_s * RATE_HZ)
        wave[at : at + 1200] += 0.5 * random.standard_normal(1200) * np.exp(-np.arange(1200) / 300)
    return wave.astype(np.float32), [round(time, 4) for time in times.tolist()]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    home = tmp_path_factory.mktemp("house")
    model = mert.save_pretrained(tiny_embedder(0), home / "tiny")
    other = mert.save_pretrained(tiny_embedder(1), home / "other")
    for instrument in INSTRUMENTS:
        (home / "audio" / instrument).mkdir(parents=True)
        for seed in range(15):
            soundfile.write(home / "audio" / instrument / f"{seed:02}.wav", tone(instrument, seed), RATE_HZ)
    (home / "clicks").mkdir()
    for seed in range(10):
        soundfile.write(home / "clicks" / f"{seed}.wav", clicks(seed)[0], RATE_HZ)
    embed = ("-m", model, "-d", "cpu", "--layers", "all")
    assert run_mert("embed", home / "audio", "-o", home / "features", "--pool", "mean", *embed).code == 0
    assert run_mert("embed", home / "clicks", "-o", home / "frames", *embed).code == 0
    return House(model, other, home / "audio", home / "features", home / "frames")


def table_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names() -> list[str]:
    return [f"{instrument}/{seed:02}.wav" for instrument in INSTRUMENTS for seed in range(15)]


@pytest.fixture
def write_labels(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str, newline: str = "\n") -> Path:
        path = tmp_path / "labels.csv"
        path.write_bytes(text.strip().replace("\n", newline).encode())
        return path

    return write


def classes_csv(*more: str) -> str:
    return "\n".join(["file,label", *(f"{name},{name.partition('/')[0]}" for name in names()), *more])


@pytest.fixture(scope="module")
def head(house: House, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that tells the two instruments apart, and what its fit printed in `fit.txt` beside it."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "labels.csv").write_text(classes_csv())
    run = run_mert("probe", "fit", house.features, folder / "labels.csv", "-o", folder / "head", *QUICK)
    assert run.code == 0, run.err
    (folder / "fit.txt").write_text(run.out)
    return folder / "head"


def test_new_tones_are_told_apart(house: House, head: Path, tmp_path: Path) -> None:
    for instrument in INSTRUMENTS:
        (tmp_path / "new" / instrument).mkdir(parents=True)
        for seed in range(100, 104):
            soundfile.write(tmp_path / "new" / instrument / f"{seed}.wav", tone(instrument, seed), RATE_HZ)
    run = run_mert("probe", "predict", head, tmp_path / "new", "-m", house.model, "-o", tmp_path / "p.csv", "-d", "cpu")
    assert run.code == 0, run.err
    rows = table_of(tmp_path / "p.csv")
    assert len(rows) == 8
    for row in rows:
        assert row["label"] == Path(row["file"]).parent.name
        assert f"{row['file']}: {row['label']} {float(row['probability']):.2f}" in run.out
        assert 0.5 < float(row["probability"]) <= 1


def test_audio_and_its_features_get_one_prediction(house: House, head: Path) -> None:
    saved, embedder = SavedHead.load(head), mert.load(house.model, device="cpu")
    name = "harp/03.wav"
    heard = saved.predict(house.audio / name, embedder)
    wave, rate_hz = soundfile.read(house.audio / name, dtype="float32")
    assert saved.predict((wave, rate_hz), embedder).scores == heard.scores
    for features in (
        embedder.embed(house.audio / name, pool="mean"), embedder.embed(house.audio / name),
        house.features / f"{name}.npz",
    ):  # fmt: skip
        assert saved.predict(features).scores == pytest.approx(heard.scores, abs=2e-3)  # files hold fp16
    assert sum((heard.scores or {}).values()) == pytest.approx(1)


def test_a_head_says_what_it_is(house: House, head: Path) -> None:
    card = json.loads((head / "head.json").read_text())
    assert card["encoder"] == {"name": "tiny", "revision": None, "sha256": mert.load(house.model, device="cpu").sha256}
    assert card["features"]["window_frames"] == 74 and card["features"]["pool"] == "mean"
    assert (card["task"], card["classes"]) == ("classification", ["flute", "harp"])
    assert card["counts"] == {name: {"train": 9, "valid": 3, "test": 3} for name in INSTRUMENTS}
    assert "random by seed 0" in card["split"]["how"]
    assert sorted(file for part in ("train", "valid", "test") for file in card["split"][part]) == sorted(names())
    assert len(card["grid"]) == 5 * 2  # embed, three layers and their sum; one rate, two seeds
    valid = {row["layer"]: [] for row in card["grid"]}
    for row in card["grid"]:
        valid[row["layer"]].append(row["valid"])
    assert card["layer"] == max(valid, key=lambda layer: np.mean(valid[layer]))
    seeds = card["scores"]["seeds"]
    assert card["scores"]["test"] == {"accuracy": np.mean([seed["test"]["accuracy"] for seed in seeds]), "n": 6}
    assert card["versions"]["mert-hub"] == mert.__version__
    printed = (head.parent / "fit.txt").read_text()
    for wanted in ("18 train, 6 valid, 6 test (random by seed 0", "classification, as the columns", "harp   9      3"):
        assert wanted in printed


def test_test_files_decide_nothing(house: House, head: Path, tmp_path: Path) -> None:
    card = json.loads((head / "head.json").read_text())
    part_of = {file: part for part in ("train", "valid", "test") for file in card["split"][part]}
    text = ["file,label,split"]
    for name in names():
        label = name.partition("/")[0]
        if part_of[name] == "test":  # wrong on purpose
            label = "flute" if label == "harp" else "harp"
        text.append(f"{name},{label},{part_of[name]}")
    (tmp_path / "labels.csv").write_text("\n".join(text))
    run = run_mert("probe", "fit", house.features, tmp_path / "labels.csv", "-o", tmp_path / "head", *QUICK)
    assert run.code == 0, run.err
    other = json.loads((tmp_path / "head" / "head.json").read_text())
    assert other["grid"] == card["grid"]
    assert other["scores"]["test"]["accuracy"] == pytest.approx(100 - card["scores"]["test"]["accuracy"])
    assert (tmp_path / "head" / "head.safetensors").read_bytes() == (head / "head.safetensors").read_bytes()


def test_another_encoder_is_refused(house: House, head: Path, tmp_path: Path) -> None:
    run = run_mert("probe", "predict", head, house.audio, "-m", house.other, "-o", tmp_path / "p.csv")
    hashes = [mert.load(folder, device="cpu").sha256 for folder in (house.model, house.other)]
    assert run.code == 1 and all(sha256 in run.err for sha256 in hashes) and "fit again" in run.err
    assert not (tmp_path / "p.csv").exists()
    features = mert.load(house.other, device="cpu").embed(house.audio / names()[0])
    with pytest.raises(HeadError, match=hashes[1]):
        SavedHead.load(head).predict(features)
    changed = mert.load(house.model, device="cpu")
    next(changed.model.parameters()).data.mul_(0.5)  # which torch does not count as a change
    with pytest.raises(HeadError, match="fit again"):
        SavedHead.load(head).predict(house.audio / names()[0], encoder=changed)
    unnamed = run_mert("probe", "predict", head, house.audio)  # no model of the name "tiny" is here
    assert unnamed.code == 1 and "-m" in unnamed.err and hashes[0] in unnamed.err


def test_features_made_in_another_way_are_refused(house: House, head: Path) -> None:
    saved, embedder = SavedHead.load(head), mert.load(house.model, device="cpu")
    audio, layer = house.audio / names()[0], "layer01"
    for options, wrong in (({"window": 0.3}, "window_frames"), ({"hop": 0.5}, "hop_frames"),
                           ({"pool": "meanstd"}, "pooled")):  # fmt: skip
        with pytest.raises(HeadError, match=wrong):
            saved.predict(embedder.embed(audio, **options))
    if saved.card.layers != ["embed"]:
        with pytest.raises(HeadError, match="holds no"):
            saved.predict(embedder.embed(audio, layers=["embed"]))
    held = embedder.embed(audio, layers="all", pool="mean")
    assert layer in held.layers and saved.predict(held).labels


def test_tags_by_either_spelling_are_one_table(write_labels: Callable[..., Path]) -> None:
    listed = read_labels(write_labels("file,tags\na.wav,loud;fast\nb.wav,\nc.wav, fast | slow "))
    columns = read_labels(write_labels("file,fast,loud,slow\na.wav,1,1,0\nb.wav,0,0,0\nc.wav,1,0,1"))
    assert listed.task == columns.task == "multilabel"
    assert listed.classes == columns.classes == ("fast", "loud", "slow")
    assert listed.items == columns.items
    assert [item.label for item in listed.items] == [{"loud", "fast"}, set(), {"fast", "slow"}]


def test_many_tags_a_file(house: House, tmp_path: Path) -> None:
    text = ["file,tags"]
    for name in names():
        instrument, seed = name.partition("/")[0], int(Path(name).stem)
        text.append(f"{name},{instrument}" + (";any" if seed % 3 else ""))
    (tmp_path / "labels.csv").write_text("\n".join(text))
    run = run_mert("probe", "fit", house.features, tmp_path / "labels.csv", "-o", tmp_path / "head",
                   "--layers", "embed", "--head", "linear", "--lrs", "1e-2", "--seeds", "0", "-d", "cpu")  # fmt: skip
    assert run.code == 0, run.err
    saved = SavedHead.load(tmp_path / "head")
    assert "w1" not in saved.tensors and set(saved.card.scores["test"]) == {"roc_auc", "ap", "n"}
    embedder = mert.load(house.model, device="cpu")
    for instrument in INSTRUMENTS:
        prediction = saved.predict((tone(instrument, 77), RATE_HZ), embedder)
        scores = prediction.scores or {}
        assert instrument in prediction.labels and len(set(INSTRUMENTS) & set(prediction.labels)) == 1
        assert prediction.labels == tuple(tag for tag, chance in scores.items() if chance > 0.5)
    run = run_mert("probe", "predict", tmp_path / "head", house.audio / names()[0], "-m", house.model, "-o",
                   tmp_path / "p.json")  # fmt: skip
    assert run.code == 0 and set(json.loads((tmp_path / "p.json").read_text())[0]["scores"]) == {"any", *INSTRUMENTS}


def vectors(values: dict[str, np.ndarray]) -> FeatureFiles:
    """Features of one layer, pooled, as given."""
    return FeatureFiles({name: Features(value[None].astype(np.float32), None, ("layer01",), META)
                         for name, value in values.items()})  # fmt: skip


def test_heads_learn_the_probabilities_of_tags_and_are_scored_by_the_tags(write_labels: Callable[..., Path]) -> None:
    random = np.random.default_rng(0)
    x = {f"{i}.wav": random.normal(size=6) for i in range(300)}
    rare = {name: 0.3 / (1 + np.exp(-3 * value[0])) for name, value in x.items()}  # never probable
    rows = [f"{name},{'rare' if p > 0.15 else ''},{p}" for name, p in rare.items()]
    soft = read_labels(write_labels("\n".join(["file,tags,rare", *rows])))
    hard = read_labels(write_labels("\n".join(["file,tags", *(row.rpartition(",")[0] for row in rows)])))
    assert soft.classes == hard.classes == ("rare",) and not soft.notes
    typical = Features(np.array([[1.0, 0, 0, 0, 0, 0]], np.float32), None, ("layer01",), META)  # 0.29, and tagged
    given = {}
    for name, table in (("soft", soft), ("hard", hard)):
        head = fit_head(table, vectors(x), FitOptions(lrs=(1e-2,), seeds=(0,)))
        assert head.card.scores["test"]["roc_auc"] > 97
        prediction = head.predict(typical)
        assert prediction.labels == ("rare",)
        given[name] = (prediction.scores or {})["rare"]
    assert given["soft"] < 0.4 and given["hard"] > 0.9


def test_copies_are_in_one_split() -> None:
    """Labels are drawn by lot: with copies in train and test a head would remember them."""
    random = np.random.default_rng(0)
    values = {f"{i:03d}.wav": random.normal(size=64) for i in range(150)}
    noise = {name: value + 1e-3 * random.normal(size=64) for name, value in values.items()}
    all_of = {f"{album}/{name}": value for album, made in (("a", values), ("b", noise)) for name, value in made.items()}
    lots = {name: random.choice(["flute", "oboe"]) for name in values}
    features = vectors(all_of)
    assert sorted(map(sorted, copies(features))) == [[f"a/{name}", f"b/{name}"] for name in sorted(values)]
    labels = LabelTable.of("classification", {name: lots[name[2:]] for name in all_of})
    card = fit_head(labels, features, FitOptions(lrs=(1e-2,), seeds=(0,))).card
    part_of = {name: part for part in ("train", "valid", "test") for name in card.split[part]}
    assert all(part_of[f"a/{name}"] == part_of[f"b/{name}"] for name in values)
    assert card.scores["test"]["accuracy"] < 70
    assert "copies are kept in one split (150, such as " in card.notes[0]
    given = {"a": "train", "b": "test"}
    items = (replace(item, split=given[item.file[0]] if i % 5 else "valid") for i, item in enumerate(labels.items))
    noted = keep_together(replace(labels, items=tuple(items)), copies(features))
    pair = re.search(r"copies of one recording are in two splits, (.*) and (.*) first", noted.notes[0])
    assert pair and len({item.split for item in noted.items if item.file in pair.groups()}) == 2


def test_copies_join_the_groups_of_a_table() -> None:
    items = tuple(LabelledFile(name, "x", group=group) for name, group in zip("abcdef", "PPQQ  ", strict=True))
    table = LabelTable("labels", "classification", ("x",), tuple(replace(i, group=i.group.strip()) for i in items))
    group = {item.file: item.group for item in keep_together(table, [["b", "c"], ["c", "e"]]).items}
    assert group["a"] == group["b"] == group["c"] == group["d"] == group["e"] != group["f"]


def test_silent_recordings_are_no_copies_and_neither_are_constant_features() -> None:
    values = {"a": np.zeros(8), "b": np.zeros(8), "c": np.arange(8.0)}
    silent = {
        name: Features(value[None].astype(np.float32), None, ("layer01",), META | {"silent": not value.any()})
        for name, value in values.items()
    }
    assert copies(FeatureFiles(silent)) == []
    assert copies(vectors({"a": np.ones(8), "b": np.ones(8)})) == []


def test_values_come_back_in_their_own_unit() -> None:
    random = np.random.default_rng(0)
    x = {f"{i}.wav": random.normal(size=6) for i in range(150)}
    truth = {name: (1000 + 50 * value[0], 0.01 * value[1]) for name, value in x.items()}  # two scales far apart
    table = LabelTable.of("regression", truth, ("bpm", "swing"))
    head = fit_head(table, vectors(x), FitOptions(lrs=(1e-2,), seeds=(0,), hidden=0))
    assert head.card.scores["test"]["r2"] > 95
    assert set(head.card.scores["test"]) == {"r2", "r2_bpm", "r2_swing", "n"}
    new = np.array([1.0, -1.0, 0, 0, 0, 0])
    scores = head.predict(Features(new[None].astype(np.float32), None, ("layer01",), META)).scores or {}
    assert scores["bpm"] == pytest.approx(1050, abs=8) and scores["swing"] == pytest.approx(-0.01, abs=0.002)


def test_events_are_found_in_new_recordings(house: House, tmp_path: Path) -> None:
    rows = [f"{seed},{time}" for seed in range(10) for time in clicks(seed)[1]]
    (tmp_path / "onsets.csv").write_text("\n".join(["file,time", *rows]))
    run = run_mert("probe", "fit", house.frames, tmp_path / "onsets.csv", "-o", tmp_path / "head",
                   "--layers", "layer01", "--lrs", "1e-2", "--seeds", "0", "--max-epochs", "40")  # fmt: skip
    assert run.code == 0, run.err
    assert SavedHead.load(tmp_path / "head").card.scores["test"]["f_measure"] > 80
    wave, times = clicks(50)
    soundfile.write(tmp_path / "new.wav", wave, RATE_HZ)
    run = run_mert("probe", "predict", tmp_path / "head", tmp_path / "new.wav", "-m", house.model, "-o",
                   tmp_path / "p.csv", "-d", "cpu")  # fmt: skip
    assert run.code == 0, run.err
    found = [float(row["time"]) for row in table_of(tmp_path / "p.csv")]
    assert len(found) == len(times) and np.abs(np.array(found) - times).max() < 0.07
    saved, embedder = SavedHead.load(tmp_path / "head"), mert.load(house.model, device="cpu")
    whole = saved.predict(embedder.embed(tmp_path / "new.wav"))  # all frames at once, not window by window
    assert [round(time, 3) for time in whole.times or ()] == found


def test_layers_are_summed_without_the_encoders_input(house: House, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(classes_csv())
    run = run_mert("probe", "fit", house.features, tmp_path / "labels.csv", "-o", tmp_path / "head", "--layers", "all",
                   *QUICK)  # fmt: skip
    assert run.code == 0, run.err
    saved = SavedHead.load(tmp_path / "head")
    assert saved.card.layers == ["layer01", "layer02", "layer03"]
    t = {name: torch.from_numpy(value) for name, value in saved.tensors.items()}
    features = Features.load(house.features / "harp/02.wav.npz")
    x = torch.tensor(np.stack([features.layer(name) for name in saved.card.layers]).astype(np.float32))
    mixed = (t["layers"].softmax(0)[:, None] * (x - t["mean"]) / t["deviation"]).sum(0)
    wanted = (t["w2"] @ torch.relu(t["w1"] @ mixed + t["b1"]) + t["b2"]).softmax(0)
    got = saved.predict(features).scores or {}
    assert list(got.values()) == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_random_split_is_stratified_and_repeatable() -> None:
    labels = {f"{i:03}": "common" if i % 5 else "rare" for i in range(100)}
    table = LabelTable.of("classification", labels)
    first, again, other = split(table, 3), split(table, 3), split(table, 4)
    assert first == again and first.files != other.files
    assert {part: Counter(labels[file] for file in files) for part, files in first.files.items()} == {
        "train": {"common": 48, "rare": 12}, "valid": {"common": 16, "rare": 4}, "test": {"common": 16, "rare": 4},
    }  # fmt: skip


def test_a_group_is_in_one_split() -> None:
    items = tuple(LabelledFile(f"{i}", ("a", "b")[i % 2], group=f"artist {i // 4}") for i in range(80))
    made = split(LabelTable("labels", "classification", ("a", "b"), items))
    part_of = {file: part for part, files in made.files.items() for file in files}
    assert all(len({part_of[str(4 * artist + k)] for k in range(4)}) == 1 for artist in range(20))
    assert made.n == {"train": 48, "valid": 16, "test": 16}


def test_a_wide_table_is_read_in_time_proportional_to_its_cells(write_labels: Callable[..., Path]) -> None:
    """100,000 columns took minutes: each was looked up among all others."""
    n = 50_000
    rows = [["file", *(f"c{i}" for i in range(n))], ["a.wav", *"0" * n], ["b.wav", *"1" * n]]
    path = write_labels("\n".join(map(",".join, rows)))
    started = time.process_time()
    assert len(read_labels(path).classes) == n
    assert time.process_time() - started < 5  # 0.2 s; 25 s if each column is looked up among all


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,label", "no rows"),
        ("a.wav,x\nb.wav,y", "no header"),
        ("file,0.5\nb,0.7", "no header"),
        ("file\na.wav", "one column"),
        ("file;label\na.wav;x", "one column"),
        ("file,label,label\na,x,y", "one name"),
        ("file,label\na.wav,x\na.wav,y", "line 3: a.wav stands on line 2"),
        ("file,label\na.wav,x\nb.wav", "line 3: 1 cells, not 2"),
        ("file,label\na.wav,", "line 2: the label is empty"),
        ("file,label\n,x", "line 2: names no file"),
        ("file,label,split\na.wav,x,exam", "line 2: split is 'exam'"),
        ("file,artist\na.wav,Ann", "artist is not numbers"),
        ("file,time\na,1.0\na,1.0", "line 3: the same event stands on line 2"),
        ("file,time\na,-1", "line 2: time is '-1'"),
        ("file,time,split\na,1,train\na,2,test", "line 3: a has another split or group on line 2"),
        ("file,split\na.wav,train", "besides the file's"),
        ("file,tags,loud\na.wav,loud,0.7\nb.wav,,1.1", "line 3: loud is '1.1', no probability"),
        ('file,label\na.wav,"x', "is not CSV"),
    ],
)
def test_faults_of_a_table_are_named(text: str, message: str, write_labels: Callable[..., Path]) -> None:
    path = write_labels(text)
    with pytest.raises(LabelError) as caught:
        read_labels(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("file,bpm\na,120\nb,nan", "regression", "line 3: bpm is 'nan'"),
        ("file,x,y\na,0,1\nb,2,1", "multilabel", "line 3: x is '2'"),
        ("file,tags\na,x", "classification", "needs a column named label"),
        ("file,label\na,x", "frames", "needs a column named time"),
    ],
)
def test_faults_of_a_task_are_named(text: str, task: str, message: str, write_labels: Callable[..., Path]) -> None:
    with pytest.raises(LabelError, match=message):
        read_labels(write_labels(text), task)


def test_tables_of_other_systems_are_read(write_labels: Callable[..., Path], tmp_path: Path) -> None:
    wanted = read_labels(write_labels("file,label\na.wav,Café\n\nb.wav,Bar")).items
    path = write_labels("\ufefffile,Label\na.wav,Café\n\nb.wav, Bar \n,", "\r\n")
    assert [(item.file, item.label) for item in read_labels(path).items] == [(item.file, item.label) for item in wanted]
    (tmp_path / "latin.csv").write_bytes("file,label\na.wav,Café".encode("latin-1"))
    with pytest.raises(LabelError, match="UTF-8"):
        read_labels(tmp_path / "latin.csv")
    with pytest.raises(LabelError, match="cannot be read"):
        read_labels(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,x,train", "b,y,train", "c,z,valid", "d,x,test"], "no training file is z"),
        (["a,x,train", "b,x,valid", "d,x,test"], "single class"),
        (["a,x,train", "b,y,train", "d,x,test"], "no file is in valid"),
        (["a,x,train", "b,y,train", "d,x,", "e,x,test"], "split is ''"),
    ],
)
def test_splits_that_cannot_work_are_refused(rows: list[str], message: str, write_labels: Callable[..., Path]) -> None:
    with pytest.raises(LabelError, match=message):
        split(read_labels(write_labels("\n".join(["file,label,split", *rows]))))


def test_groups_across_splits_are_refused(write_labels: Callable[..., Path]) -> None:
    path = write_labels("file,label,split,group\na,x,train,Ann\nb,y,train,Bob\nc,x,valid,Cid\nd,y,test,Ann")
    with pytest.raises(LabelError, match=r"group Ann is in train and \(line 5\) in test"):
        split(read_labels(path))


def test_labels_and_features_must_meet(house: House, tmp_path: Path, write_labels: Callable[..., Path]) -> None:
    def fit(text: str, *options: str) -> Run:
        labels, more = write_labels(text), ("-o", tmp_path / "head", "--layers", "embed", *QUICK, *options)
        return run_mert("probe", "fit", house.features, labels, *more)

    more, fewer = classes_csv("flute/99.wav,flute"), "\n".join(classes_csv().splitlines()[:-1])
    run = fit(more)
    assert run.code == 1 and "flute/99.wav (line 32)" in run.err and "--partial" in run.err
    run = fit(fewer)
    assert run.code == 1 and "14.wav.npz" in run.err and "--partial" in run.err
    assert not (tmp_path / "head").exists()
    run = fit(fewer + "\nflute/99.wav,flute", "--partial")
    assert run.code == 0, run.err
    assert "1 labelled files without features" in run.out and "1 features without a label" in run.out
    run = fit(classes_csv("flute/00,flute"), "--overwrite")
    assert run.code == 1 and "flute/00 and flute/00.wav are one recording" in run.err


@pytest.mark.parametrize(("header", "last"), [("file,label", "d,harp"), ("file,tags", "d,harp;x")])
def test_a_class_of_files_left_out_alone_is_left_out(
    header: str, last: str, tmp_path: Path, write_labels: Callable[..., Path]
) -> None:
    for name in ("a.wav", "b.wav", "c.wav"):
        Features(np.ones((1, 2), np.float32), None, ("layer01",), META).save(tmp_path / "f" / f"{name}.npz")
    table = read_labels(write_labels("\n".join([header, "a,x", "b,y", "c,x", last])))
    assert table.classes == ("harp", "x", "y")
    assert match_features(table, tmp_path / "f", partial=True)[0].classes == ("x", "y")


def test_two_recordings_of_one_stem_need_their_suffix(tmp_path: Path, write_labels: Callable[..., Path]) -> None:
    for name in ("a.wav", "a.flac", "b.wav"):
        Features(np.ones((1, 2), np.float32), None, ("layer01",), META).save(tmp_path / "f" / f"{name}.npz")
    for labels, wrong in (("a,x\nb,y", True), ("a.wav,x\na.flac,y\nb,y", False)):
        table = read_labels(write_labels("file,label\n" + labels))
        if wrong:
            with pytest.raises(LabelError, match="suffix"):
                match_features(table, tmp_path / "f", partial=True)
        else:
            assert len(match_features(table, tmp_path / "f")[1]) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "1" * 64}, "weights_sha256 is 1111"),
        ({"window_frames": 10}, "window_frames is 10, and 74 in a"),
        ({"normalize": True}, "normalize is True"),
        ({"pool": "meanstd"}, "pool is meanstd"),
        ({"layers": ("layer02",)}, "layers is"),
        ({"values": np.array([[np.nan, 0]])}, "NaN"),
        ({"lacks": "weights_sha256"}, "does not say its weights_sha256"),
    ],
)
def test_mixed_and_broken_features_are_refused(change: dict[str, Any], message: str) -> None:
    good = Features(np.ones((1, 2), np.float32), None, ("layer01",), META)
    meta = {key: value for key, value in (META | change).items() if key != change.get("lacks")}
    bad = Features(change.get("values", np.ones((1, 2))), None, change.get("layers", ("layer01",)), meta)
    with pytest.raises(MertError) as caught:
        FeatureFiles({"a": good, "b": bad})
    assert caught.value.source == "b" and message in str(caught.value)


def test_events_need_frames_and_seconds(house: House, tmp_path: Path) -> None:
    (tmp_path / "onsets.csv").write_text("file,time\n" + "\n".join(f"{name},0.1" for name in names()))
    run = run_mert("probe", "fit", house.features, tmp_path / "onsets.csv", "-o", tmp_path / "head", *QUICK)
    assert run.code == 1 and "without --pool" in run.err
    rows = [f"{seed},{1000 * time}" for seed in range(10) for time in clicks(seed)[1]]
    (tmp_path / "onsets.csv").write_text("\n".join(["file,time", *rows]))
    run = run_mert("probe", "fit", house.frames, tmp_path / "onsets.csv", "-o", tmp_path / "head", *QUICK)
    assert run.code == 1 and "seconds" in run.err


def test_damaged_heads_are_refused(head: Path, tmp_path: Path) -> None:
    def damaged(change: Callable[[Path], Any]) -> str:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(head, copy)
        change(copy)
        with pytest.raises(HeadError) as caught:
            SavedHead.load(copy)
        return str(caught.value)

    def card(**changes: Any) -> Callable[[Path], Any]:
        values = {key: value for key, value in (json.loads((head / "head.json").read_text()) | changes).items()
                  if value is not ...}  # fmt: skip
        return lambda copy: (copy / "head.json").write_text(json.dumps(values))

    tensors = (head / "head.safetensors").read_bytes()
    flipped = tensors[:-1] + bytes([tensors[-1] ^ 1])
    assert "sha256" in damaged(lambda copy: (copy / "head.safetensors").write_bytes(flipped))
    assert "sha256" in damaged(lambda copy: (copy / "head.safetensors").write_bytes(tensors[:100]))
    assert "cannot be read" in damaged(lambda copy: (copy / "head.safetensors").unlink())
    assert "cannot be read" in damaged(lambda copy: (copy / "head.json").unlink())
    assert "not JSON" in damaged(lambda copy: (copy / "head.json").write_text("{"))
    assert "not a JSON object" in damaged(lambda copy: (copy / "head.json").write_text("[]"))
    assert "schema" in damaged(card(schema=99))
    assert "layers is missing" in damaged(card(layers=...))
    assert "run_me" in damaged(card(run_me="import os"))
    assert "encoder.sha256" in damaged(card(encoder={"name": "tiny"}))
    assert "features" in damaged(card(features={}))
    assert "classes" in damaged(card(classes=[1, 2]))
    assert "3 outputs" in damaged(card(classes=["a", "b", "c"]))
    assert "task" in damaged(card(task="separation"))


def test_a_head_replaces_a_head_and_nothing_else(house: House, head: Path, tmp_path: Path) -> None:
    saved = SavedHead.load(head)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for _ in range(2):
        saved.save(tmp_path / "copy")
    assert (tmp_path / "copy" / "head.safetensors").read_bytes() == (head / "head.safetensors").read_bytes()
    with pytest.raises(MertError, match="not a head"):
        saved.save(tmp_path / "mine")
    (tmp_path / "labels.csv").write_text(classes_csv())
    run = run_mert("probe", "fit", house.features, tmp_path / "labels.csv", "-o", tmp_path / "mine", *QUICK)
    assert run.code == 1 and "not a head" in run.err
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "copy", "labels.csv"}
    run = run_mert("probe", "predict", head, house.audio, "-m", house.model, "-o", tmp_path / "labels.csv")
    assert run.code == 2 and (tmp_path / "labels.csv").read_text() == classes_csv()


def test_one_bad_recording_stops_nothing(house: House, head: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    run = run_mert("probe", "predict", head, tmp_path / "bad.wav", house.audio / names()[0], "-m", house.model,
                   "-o", tmp_path / "p.csv", "-d", "cpu")  # fmt: skip
    assert run.code == 3 and "failed: " in run.err and "bad.wav" in run.err
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2


def test_what_is_not_installed_is_named(house: House, tmp_path: Path, write_labels: Callable[..., Path]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "sklearn.metrics", None)
        labels = write_labels("file,x\n" + "\n".join(f"{name},{i}" for i, name in enumerate(names())))
        run = run_mert("probe", "fit", house.features, labels, "-o", tmp_path / "head", "--layers", "embed", *QUICK)
    assert run.code == 1 and "sklearn is not installed" in run.err and ".[probe]" in run.err


def test_help_comes_without_torch() -> None:
    code = "import sys\nfrom mert.cli import main as cli\ntry:\n    cli.app(['probe', 'fit', '--help'])\nfinally:\n"
    code += "    assert not {'torch', 'sklearn', 'mir_eval', 'safetensors'} & sys.modules.keys()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--partial" in done.stdout, done.stderr


def test_unknown_layers_and_rates_are_wrong_usage(
    house: House, tmp_path: Path, write_labels: Callable[..., Path]
) -> None:
    fit = ("probe", "fit", house.features, write_labels(classes_csv()), "-o", tmp_path / "head")
    for options, wrong in (
        (("--layers", "layer09"), "layer09"), (("--lrs", "fast"), "numbers"),
        (("--lrs", "nan"), "no number above 0"), (("--lrs", "1e-3,1e-3"), "once"),
    ):  # fmt: skip
        run = run_mert(*fit, *options)
        assert run.code == 2 and wrong in run.err and not (tmp_path / "head").exists()
