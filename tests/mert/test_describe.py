"""Descriptions: one pass gives what each head predicts alone; sections, doubt, loudness, the command and its files."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from harness.commands import run_mert
from harness.encoders import encoded
from harness.made_heads import made_head, save_heads
from harness.sounds import tiny_embedder

import mert
from mert.audio.loudness import Loudness
from mert.describe.description import Description
from mert.describe.head import CARD, HeadCard, HeadError, SavedHead
from mert.describe.predictions import Prediction
from mert.errors import MertError, UsageError

RATE_HZ = 24_000


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose level and colour change."""
    random = np.random.default_rng(seed)
    n = round(seconds * RATE_HZ)
    wave = random.standard_normal(n) * np.abs(np.sin(np.arange(n) * 3e-5 + seed))
    return (0.1 * np.convolve(wave, np.ones(1 + seed % 5), "same")).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose heads of all four kinds read two layers, one with deviations."""
    folder = mert.save_pretrained(tiny_embedder(0), tmp_path_factory.mktemp("models") / "tiny")
    m = mert.load(folder)
    save_heads(
        folder / "heads", key=made_head(m, "key", 1, layer="layer01"), genre=made_head(m, "genre", 2, pool="meanstd"),
        mood=made_head(m, "mood", 3), beats=made_head(m, "beats", 4, layer="layer01"),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def m(model: Path) -> mert.Describer:
    return mert.load(model)


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    (folder / "deep").mkdir()
    for seed, name in enumerate(("a.wav", "b.wav", "deep/c.wav")):
        soundfile.write(folder / name, sound(3 + seed, seed), RATE_HZ)
    return folder


def test_one_pass_gives_what_each_head_predicts_alone(m: mert.Describer, model: Path, music: Path) -> None:
    described = m.describe(music / "b.wav")
    for name in ("key", "genre", "mood", "beats"):
        alone, together = (
            SavedHead.load(model / "heads" / name).predict(music / "b.wav", m),
            described.predictions[name],
        )
        assert (together.labels, together.sure) == (alone.labels, alone.sure)
        assert (together.scores or {}) == pytest.approx(alone.scores or {}, rel=1e-5, abs=1e-5)
        assert (together.times or ()) == pytest.approx(alone.times or (), abs=1e-6)
    assert described.predictions["beats"].times, "the test needs events"
    assert described.seconds == pytest.approx(4.0)


def test_a_section_is_described_as_its_frames_alone(m: mert.Describer, model: Path, music: Path) -> None:
    sections = m.describe(music / "deep/c.wav", every=2).sections
    assert [(section.start_s, section.end_s) for section in sections] == [(0, 2), (2, 4), (4, 5)]
    last = m.describe(music / "deep/c.wav", every=2.3).sections
    assert [(section.start_s, section.end_s) for section in last] == [(0, 172 / 75), (172 / 75, 5)]  # 0.4 s joined
    frames = m.embed(music / "deep/c.wav", dtype="float32")
    for number, section in enumerate(sections):
        part = mert.Features(
            frames.values[:, 150 * number : 150 * (number + 1)], frames.times, frames.layers, frames.meta
        )
        alone = SavedHead.load(model / "heads/mood").predict(part.pool("mean"))
        assert section.predictions["mood"].scores == pytest.approx(alone.scores, rel=1e-4, abs=1e-4)
        assert "beats" not in section.predictions


def test_an_array_a_copy_and_the_file_are_described_alike(m: mert.Describer, music: Path) -> None:
    by_file = m.describe(music / "a.wav").as_dict()
    wave, rate = soundfile.read(music / "a.wav", dtype="float32")
    for other in (m.describe(wave, sr=rate), pickle.loads(pickle.dumps(m)).describe(music / "a.wav")):
        assert {**other.as_dict(), "file": by_file["file"]} == by_file


def test_doubt_is_null(m: mert.Describer, music: Path, tmp_path: Path) -> None:
    sure = m.describe(music / "a.wav")
    confidence = sure.as_dict()["key"]["confidence"]
    own = save_heads(
        tmp_path, unsure=made_head(m, "key", 1, "layer01", (confidence + 0.01,)),
        just=made_head(m, "key", 1, "layer01", (confidence - 0.01,)),
        none=made_head(m, "beats", 4, "layer01", (0.999999,)),
        few=made_head(m, "genre", 2, least=(0.0, 1.1, 1.1, 0.0), pool="meanstd"),
    )  # fmt: skip
    described = m.describe(music / "a.wav", heads=own).as_dict()
    assert described["unsure"] == {"value": None, "confidence": confidence}
    assert described["just"] == {"value": sure.predictions["key"].labels[0], "confidence": confidence}
    assert described["none"] is None
    assert described["few"].keys() == {"rock", "pop"}
    assert "not sure" in str(m.describe(music / "a.wav", heads=own))


@pytest.mark.parametrize("bpm", [61.7, 120.0, 199.0])
def test_tempo_is_finer_than_the_grid_of_frames(bpm: float) -> None:
    """Beats on the frames of 75 a second: their distance alone is off by up to 2.4 %."""
    beats = tuple(round(60 / bpm * i * 75) / 75 for i in range(30))
    found = Description("a", "m", 30.0, False, -14.0, {"beats": Prediction("a", "frames", times=beats)})
    assert found.tempo_bpm == pytest.approx(bpm, rel=0.004)
    few = Description("a", "m", 2.0, False, -14.0, {"beats": Prediction("a", "frames", times=beats[:3])})
    assert few.tempo_bpm is None


def test_heads_that_do_not_belong_to_the_model_are_refused(m: mert.Describer, music: Path, tmp_path: Path) -> None:
    other = tiny_embedder(1)
    with pytest.raises(HeadError, match="was fitted on features of"):
        m.describe(music / "a.wav", heads=save_heads(tmp_path / "a", foreign=made_head(other, "key")))
    with pytest.raises(UsageError, match="second head named key"):
        m.describe(music / "a.wav", heads=save_heads(tmp_path / "b", key=made_head(m, "key")))
    with pytest.raises(UsageError, match="holds no head"):
        m.describe(music / "a.wav", heads=music)
    with pytest.raises(MertError, match="comes without heads"):
        mert.load(mert.save_pretrained(other, tmp_path / "plain")).describe(music / "a.wav")
    for every in (0.001, 0.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="no length of a section"):
            m.describe(music / "a.wav", every=every)
    with pytest.raises(UsageError, match="descriptions use for something else"):
        m.describe(music / "a.wav", heads=save_heads(tmp_path / "c", seconds=made_head(m, "key")))


def test_changed_weights_are_noticed(model: Path, music: Path) -> None:
    m = mert.load(model)
    m.describe(music / "a.wav")
    m.model.encoder.norm.weight.data.mul_(1.5)
    with pytest.raises(HeadError, match="was fitted on features of"):
        m.describe(music / "a.wav")


def test_a_short_sound_is_not_called_silent(m: mert.Describer) -> None:
    short = m.describe(sound(0.3), sr=RATE_HZ)
    assert short.loudness_lufs is None and not short.silent
    assert "silent" not in str(short)
    silence = m.describe(np.zeros(RATE_HZ, np.float32), sr=RATE_HZ)
    assert silence.silent and "1.0 s, silent" in str(silence)


def test_a_head_of_the_schema_before_is_sure_of_everything(m: mert.Describer, tmp_path: Path) -> None:
    save_heads(tmp_path, old=made_head(m, "key", 1, least=(0.99,)))
    values = json.loads((tmp_path / "old" / CARD).read_text())
    del values["least"]
    (tmp_path / "old" / CARD).write_text(json.dumps(values | {"schema": 1}))
    assert HeadCard.load(tmp_path / "old" / CARD).least == []
    assert SavedHead.load(tmp_path / "old").predict((sound(2), RATE_HZ), m).sure


def test_loudness_of_known_signals(m: mert.Describer) -> None:
    """A sine of 997 Hz at full scale has -3.01 LUFS (BS.1770); the gates leave out silence and soft parts."""
    time_N = np.arange(10 * RATE_HZ) / RATE_HZ
    sine_N = np.sin(2 * np.pi * 997 * time_N).astype(np.float32)

    def lufs(wave_N: np.ndarray, block: int = 7_777) -> float | None:
        loudness, samples_NC = Loudness(), wave_N.reshape(len(wave_N), -1)
        for start in range(0, len(wave_N), block):
            loudness.add(RATE_HZ, samples_NC[start : start + block])
        return loudness.lufs

    assert lufs(sine_N) == pytest.approx(-3.01, abs=0.02)
    assert lufs(0.1 * sine_N) == pytest.approx(-23.01, abs=0.02)
    assert lufs(np.concatenate([0.1 * sine_N, np.zeros_like(sine_N)])) == pytest.approx(-23.01, abs=0.2)
    assert lufs(np.concatenate([0.1 * sine_N, 0.01 * sine_N])) == pytest.approx(-23.01, abs=0.2)  # 20 LU below
    assert lufs(np.zeros(RATE_HZ, np.float32)) is None
    assert lufs(sine_N[:1000]) is None
    assert lufs(sine_N, 100) == pytest.approx(lufs(sine_N, 100_000), abs=1e-9)
    both_NC, opposite_NC = np.stack([sine_N, sine_N], axis=1), np.stack([sine_N, -0.5 * sine_N], axis=1)
    assert lufs(10 ** (-23 / 20) * both_NC) == pytest.approx(-23.0, abs=0.1)  # EBU Tech 3341, case 1
    assert m.describe(opposite_NC, sr=RATE_HZ).loudness_lufs == pytest.approx(-3.01 + 0.97, abs=0.02)
    surround_NC = 10 ** (np.array([-28, -28, -24, 0, -30, -30]) / 20) * sine_N[:, None]
    assert lufs(surround_NC) == pytest.approx(-23.0, abs=0.1)  # case 6, with a loud low-frequency channel
    joined = Loudness()  # of two rates, as a stream may have
    joined.add(RATE_HZ, 0.1 * sine_N[:, None])
    joined.add(48_000, 0.1 * np.sin(2 * np.pi * 997 * np.arange(48_000) / 48_000)[:, None])
    assert joined.lufs == pytest.approx(-23.01, abs=0.02)


def test_nothing_is_said_of_silence(m: mert.Describer, tmp_path: Path) -> None:
    """A head answers for zeros, too, and may be sure."""
    save_heads(tmp_path, sure=made_head(m, "key", 1, least=(0.0,)), tags=made_head(m, "mood", 3))
    for wave_N in (np.zeros(3 * RATE_HZ, np.float32), np.full(3 * RATE_HZ, 0.25, np.float32)):
        described = m.describe(wave_N, sr=RATE_HZ, every=1, heads=tmp_path)
        assert described.silent and described.tempo_bpm is None and described.loudness_lufs is None
        for predictions in (described.predictions, *(section.predictions for section in described.sections)):
            values = [each for each in predictions.values() if each.task != "regression"]
            assert values and not any(each.sure or (each.labels and each.task == "multilabel") for each in values)


def test_heads_of_bfloat16_read_float32_beside_others(m: mert.Describer, music: Path, tmp_path: Path) -> None:
    """A head that was fitted on features of `mert embed` on a machine with bfloat16 joins those of the model."""
    save_heads(tmp_path, half=made_head(m, "genre", 2, dtype="bfloat16"), int8=made_head(m, "genre", 2, dtype="int8"))
    described = m.describe(music / "a.wav", heads=tmp_path / "half")
    wanted = made_head(m, "genre", 2).predict(music / "a.wav", m).scores
    assert described.predictions["half"].scores == pytest.approx(wanted)
    with pytest.raises(HeadError, match=r"fitted on features in int8, and .* in float32; .*mert embed --dtype float32"):
        m.describe(music / "a.wav", heads=tmp_path / "int8")


def test_the_command_prints_for_people_and_for_programs(model: Path, music: Path, m: mert.Describer) -> None:
    people = run_mert("describe", music / "a.wav", "-m", model, "-d", "cpu")
    assert people.code == 0, people.err
    assert people.out.splitlines() == str(m.describe(music / "a.wav")).splitlines()
    rows = run_mert("describe", music, "-m", model, "-d", "cpu", "--json")
    described = [json.loads(line) for line in rows.out.splitlines()]
    assert [Path(row["file"]).name for row in described] == ["a.wav", "b.wav", "c.wav"]
    assert described[0] == json.loads(json.dumps(m.describe(music / "a.wav").as_dict()))
    table = list(csv.DictReader(run_mert("describe", music, "-m", model, "-d", "cpu", "--csv").out.splitlines()))
    assert [row["tempo_bpm"] for row in table] == [str(row["tempo_bpm"] or "") for row in described]
    moods = [row["mood"]["values"]["arousal"] for row in described]
    assert [float(row["mood_arousal"]) for row in table] == pytest.approx(moods, rel=1e-5)
    same_names = run_mert("describe", music / "a.wav", music / "deep/../a.wav", "-m", model, "-d", "cpu", "--json")
    assert same_names.code == 0, same_names.err


def test_a_folder_is_described_once_and_failures_are_reported(model: Path, music: Path, tmp_path: Path) -> None:
    songs, out = tmp_path / "songs", tmp_path / "out"
    shutil.copytree(music, songs)
    (songs / "broken.wav").write_bytes(b"RIFF")
    command = ("describe", songs, "-m", model, "-d", "cpu", "-o", out)
    first = run_mert(*command)
    assert first.code == 3
    assert "3 described, 0 kept, 1 failed" in first.out
    report = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
    assert {Path(row["source"]).name: row["status"] for row in report}["broken.wav"] == "failed"
    assert all("description" not in row for row in report)
    table = (out / "descriptions.csv").read_text()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.json")}
    assert len(before) == 3
    (songs / "broken.wav").unlink()
    again = run_mert(*command)
    assert again.code == 0
    assert "0 described, 3 kept, 0 failed" in again.out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.json")} == before
    assert (out / "descriptions.csv").read_text() == table
    held = json.loads((out / "b.wav.json").read_text())
    del held["made_by"]["schema"]  # as before its loudness was that of all channels
    (out / "b.wav.json").write_text(json.dumps(held))
    assert "1 described, 2 kept" in run_mert(*command).out
    soundfile.write(songs / "a.wav", sound(2, 9), RATE_HZ)
    assert "1 described, 2 kept" in run_mert(*command).out
    assert "3 described, 0 kept" in run_mert(*command, "--every", "1").out
    table = (out / "descriptions.csv").read_text()
    part = run_mert("describe", songs / "a.wav", *command[2:], "--every", "1")
    assert part.code == 0 and "0 described, 1 kept" in part.out
    assert sorted((out / "descriptions.csv").read_text().splitlines()) == sorted(table.splitlines())
    assert len((out / "report.jsonl").read_text().splitlines()) == 3
    several = run_mert(*command[:2], "-m", model, "-d", "cpu", "-o", tmp_path / "two", "--workers", "2")
    assert several.code == 0, several.err
    without_sections = run_mert(*command)
    assert without_sections.code == 0
    assert (tmp_path / "two/descriptions.csv").read_text() == (out / "descriptions.csv").read_text()


def test_descriptions_by_another_model_are_replaced_on_request_alone(model: Path, music: Path, tmp_path: Path) -> None:
    other = mert.save_pretrained(tiny_embedder(1), tmp_path / "other")
    save_heads(other / "heads", key=made_head(mert.load(other), "key", 1, layer="layer01"))
    command, out = ("describe", music, "-d", "cpu", "-o", tmp_path / "out"), tmp_path / "out"
    assert run_mert(*command, "-m", model).code == 0
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    (out / "a.wav.json").unlink()
    refused = run_mert(*command, "-m", other)
    assert refused.code == 2 and "b.wav.json: is a description by another model" in refused.err
    assert all(path.read_bytes() == data for path, data in before.items() if path.name != "a.wav.json")
    assert not (out / "a.wav.json").exists()
    assert "3 described, 0 kept" in run_mert(*command, "-m", other, "--overwrite").out


def test_a_file_that_is_no_description_is_not_replaced_unasked(model: Path, music: Path, tmp_path: Path) -> None:
    """Other programs keep notes in files of such names."""
    notes = tmp_path / "out" / "b.wav.json"
    notes.parent.mkdir()
    notes.write_text('{"rating": 5}')
    command = ("describe", music, "-m", model, "-d", "cpu", "-o", tmp_path / "out")
    refused = run_mert(*command)
    assert refused.code == 2 and "b.wav.json: is no description of mert describe; give another -o" in refused.err
    assert [path.name for path in notes.parent.iterdir()] == ["b.wav.json"] and notes.read_text() == '{"rating": 5}'
    assert "3 described, 0 kept" in run_mert(*command, "--overwrite").out


def test_every_command_says_what_is_damaged(model: Path, music: Path, tmp_path: Path) -> None:
    """Exit code 3, and a line; a description that is kept keeps what was said."""
    songs, out = tmp_path / "songs", tmp_path / "out"
    shutil.copytree(music, songs)
    whole = encoded(sound(6, 7), RATE_HZ, "FLAC")
    (songs / "cut.flac").write_bytes(whole[: len(whole) // 2])

    def warnings() -> dict[str, list[str]]:
        rows = [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]
        return {Path(row["source"]).name: row["warnings"] for row in rows}

    describe = ("describe", songs, "-m", model, "-d", "cpu", "-o", out)
    assert run_mert(*describe).code == 3
    said = warnings()
    assert said["cut.flac"] and not said["a.wav"]
    run_mert(*describe)
    assert warnings() == said
    (tmp_path / "query.flac").write_bytes(whole[: len(whole) // 3])
    for query, damaged in ((tmp_path / "query.flac", ["query.flac", "cut.flac"]), (songs / "a.wav", [])):
        similar = run_mert("similar", query, songs, "-m", model, "-d", "cpu")
        lines = [line for line in similar.err.splitlines() if line.startswith("damaged: ")]
        assert [Path(line.split(": ")[1]).name for line in lines] == damaged
        assert similar.code == (3 if damaged else 0) and ("4 embedded (1 damaged)" in similar.err) == bool(damaged)
    made_head(mert.load(model), "key", 1, layer="layer01").save(tmp_path / "key")
    predict = ("probe", "predict", tmp_path / "key", "-m", model, "-d", "cpu")
    predicted = run_mert(*predict, songs, "-o", tmp_path / "keys.json")
    assert predicted.code == 3 and predicted.err.count("warning: ") == len(said["cut.flac"])
    in_file = {Path(row["file"]).name: row["warnings"] for row in json.loads((tmp_path / "keys.json").read_text())}
    assert in_file == said
    assert run_mert(*predict, songs / "a.wav").code == 0


def test_likes_are_filtered_by_what_descriptions_say(model: Path, music: Path, tmp_path: Path) -> None:
    songs, out = tmp_path / "songs", tmp_path / "out"
    shutil.copytree(music, songs)
    assert run_mert("describe", songs, "-m", model, "-d", "cpu", "-o", out).code == 0
    described = {name: json.loads((out / f"{name}.json").read_text()) for name in ("a.wav", "b.wav", "deep/c.wav")}
    key, tempo = described["b.wav"]["key"]["value"], described["b.wav"]["tempo_bpm"]

    def found(*options: object) -> set[str]:
        query = ("similar", tmp_path / "query.wav", songs, "-m", model, "-d", "cpu", "--json")
        run = run_mert(*query, *options)
        assert run.code == 0, run.err
        matches = json.loads(run.out)["queries"][0]["matches"]
        return {Path(match["path"]).relative_to(songs).as_posix() for match in matches}

    soundfile.write(tmp_path / "query.wav", sound(3, 5), RATE_HZ)
    same_key = {name for name, values in described.items() if values["key"]["value"] == key}
    assert found("--described", out, "--key", key.lower()) == same_key
    near = {name for name, values in described.items() if abs((values["tempo_bpm"] or 0) - tempo) <= 1}
    assert found("--described", out, "--tempo", f"{tempo - 1}-{tempo + 1}") == near
    tag = next(tag for values in described.values() for tag in values["genre"])
    with_tag = {name for name, values in described.items() if tag in values["genre"]}
    assert found("--described", out, "--tag", tag) == with_tag
    refused = run_mert("similar", tmp_path / "query.wav", songs, "-m", model, "--key", "C major")
    assert refused.code == 2
    assert "--described" in refused.err
