"""The model that comes with the package: what it promises, and that it travels without loss."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from harness.commands import mert_command, run_mert
from harness.hub_server import Hub
from harness.made_heads import made_head, save_heads
from harness.oracle import states_of, worst
from harness.sounds import all_close, music, tiny_embedder

import mert
from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError
from mert.files import read_rows
from mert.weights.registry import bundled, info
from mir_benchmarks.synth.corpus import SynthCorpus

NAME = "mert-nano"
NAMES = (NAME, "mert-nano-1")


@pytest.fixture(scope="module")
def nano() -> Embedder:
    return mert.load(NAME, device="cpu")


@pytest.fixture(scope="module")
def folder() -> Path:
    found = bundled(NAME)
    assert found is not None
    return found


def test_it_loads_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refused)
    assert mert.load(NAME, device="cpu").layer_names[-1] == "layer06"


def test_a_folder_of_features_does_not_stand_for_the_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mert embed ... -o mert-nano` makes one, also before its workers load the model."""
    monkeypatch.chdir(tmp_path)
    Path(NAME).mkdir()
    (Path(NAME) / "a.wav.npz").write_bytes(b"features")
    assert mert.load(NAME, device="cpu").info.sha256 == info(NAME).sha256
    assert run_mert("verify", NAME).code == 0 and run_mert("info", NAME).code == 0
    mert.save_pretrained(tiny_embedder(), NAME)
    assert mert.load(NAME, device="cpu").info.sha256 != info(NAME).sha256  # a model there comes first


@pytest.mark.parametrize("name", NAMES)
def test_it_is_as_small_and_as_free_as_promised(name: str) -> None:
    nano, record, folder = mert.load(name, device="cpu"), info(name), bundled(name)
    n_params = sum(p.numel() for p in nano.model.parameters())
    assert n_params == record.n_params <= 8_000_000
    assert folder and (folder / "model.safetensors").stat().st_size <= 16_000_000
    assert record.licence == "Apache-2.0"
    assert (nano.sample_rate, nano.frame_rate) == (24_000, 75.0)
    assert record.window_s == nano.window_s
    assert record.recommended_layer in nano.layer_names


@pytest.mark.parametrize("name", NAMES)
def test_it_verifies(name: str) -> None:
    report = mert.verify(bundled(name) or "")
    assert report.sha256 == info(name).sha256
    assert report.golden is not None


def test_a_changed_weight_is_noticed(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record of the registry stands above the files, golden states or not."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    weights = bytearray((tmp_path / "model.safetensors").read_bytes())
    weights[-2] ^= 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    monkeypatch.setattr("mert.weights.registry.bundled", lambda name: tmp_path)
    with pytest.raises(CheckpointError, match="on record is"):
        mert.load(NAME)


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_of_these_weights_and_says_what_they_learned_from(name: str) -> None:
    card = ((bundled(name) or Path()) / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert str(info(name).sha256) in card
    assert "synthesised" in card or "synthetic" in card


def test_heads_that_come_with_it_are_small_and_describe(tmp_path: Path) -> None:
    """Of music whose score is known: a steady beat is found at its tempo, and every head says what it was fitted on."""
    m = mert.load("mert-nano", device="cpu")
    assert m.heads_folder
    assert sum(file.stat().st_size for file in m.heads_folder.rglob("*") if file.is_file()) <= 4_000_000
    described = m.describe(music(12.0), sr=24_000)
    assert {"key", "instruments", "voice", "beats"} <= described.predictions.keys()
    for card in m.heads_folder.glob("*/head.json"):
        facts = json.loads(card.read_text())
        assert facts["encoder"]["sha256"] == m.sha256 and facts["scores"]["test"] and facts["notes"]


def test_a_model_in_place_of_another_keeps_only_the_heads_of_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def export(*words: object) -> list[str]:
        caplog.clear()
        run = run_mert("export", *words, "--overwrite")
        assert run.code == 0, run.err
        return [message for message in caplog.messages if "removed, as it was fitted on" in message]

    out = tmp_path / "out"
    assert export(NAME, out) == []
    names = {path.name for path in (out / "heads").iterdir()} | {"mine"}
    save_heads(out / "heads", mine=made_head(mert.load(out, device="cpu"), "key"))
    assert export(NAME, out) == [] and {path.name for path in (out / "heads").iterdir()} == names
    assert len(export("mert-nano-1", out)) == len(names)
    assert mert.verify(out).sha256 == mert.load(out, device="cpu").sha256 and not (out / "heads").exists()
    pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
    assert export(NAME, out, "--to", "onnx") == [] and not (out / "model.safetensors").exists()
    assert mert.load(out).heads_folder


@pytest.mark.parametrize("form", ["hubert", "onnx"])
def test_a_model_is_not_exported_over_itself(form: str, tmp_path: Path) -> None:
    assert run_mert("export", "mert-nano-1", tmp_path / "out").code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    for source in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        run = run_mert("export", source, tmp_path / "out", "--to", form, "--overwrite")
        assert run.code == 2 and "holds the model that is read; give another folder" in run.err
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}


def test_a_quiet_mp3_of_a_part_finds_its_piece(tmp_path: Path) -> None:
    """`mert similar` with its default model, over pieces of instruments that training never heard."""
    pieces = SynthCorpus(seed=7, n_items=8, seconds=6.0, purpose="bench")
    for i in range(len(pieces)):
        (tmp_path / "music").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "music" / f"{i}.wav", pieces.read(i), 24_000)
        soundfile.write(tmp_path / f"{i}.mp3", 0.5 * pieces.read(i)[48_000:120_000], 24_000)
    queries = [tmp_path / f"{i}.mp3" for i in range(len(pieces))]
    done = run_mert("similar", *queries, tmp_path / "music", "-k", "1", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["queries"]
    assert [Path(row["matches"][0]["path"]).stem for row in found] == [Path(query).stem for query in queries]


@pytest.mark.parametrize("name", NAMES)
def test_a_collection_of_two_knows_a_copy_from_another_piece(name: str, tmp_path: Path) -> None:
    """By the centre that comes with it: around the mean of two recordings, these would be opposites."""
    m = mert.load(name, device="cpu")
    assert all(m.centre(layer) is not None for layer in m.layer_names)
    pieces = SynthCorpus(seed=7, n_items=2, seconds=6.0, purpose="bench")
    for piece, kind in ((0, "wav"), (0, "mp3"), (1, "wav")):
        soundfile.write(tmp_path / f"{piece}.{kind}", pieces.read(piece), 24_000)
    index = mert.Index.build(m, sorted(map(str, tmp_path.iterdir())))
    found = {Path(match.name).name: match for match in index.query(m.embed(tmp_path / "0.wav", layers="recommended"))}
    assert found["0.mp3"].is_version and not found["1.wav"].is_version


def test_it_is_pushed_to_a_hub_and_comes_back(nano: Embedder, folder: Path, tmp_path: Path) -> None:
    """By a second process, as the hub's client reads its variables once."""
    code = (
        "import sys, json, mert; from mert.weights.hub import push_to_hub\n"
        "revision = push_to_hub(sys.argv[1], 'you/my-nano')\n"
        "m = mert.load('you/my-nano', revision=revision, device='cpu')\n"
        "m.embed(sys.argv[2], dtype='float32').save(sys.argv[3]); print(json.dumps([m.info.sha256, m.info.licence]))\n"
    )
    soundfile.write(tmp_path / "song.wav", music(2.5), 24_000)
    with Hub() as server:
        variables = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_local"}
        done = _python(code, folder, tmp_path / "song.wav", tmp_path / "song.npz", **variables)
        assert {"README.md", "config.json", "golden.safetensors", "model.safetensors"} <= set(
            server.repos["you/my-nano"][server.heads["you/my-nano"]]
        )
    assert json.loads(done) == [info(NAME).sha256, "apache-2.0"]
    got = mert.Features.load(tmp_path / "song.npz").values
    assert np.array_equal(got, nano.embed(tmp_path / "song.wav").values)


def test_plain_transformers_gives_the_same_states(nano: Embedder, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the oracle comes with the full environment")
    assert run_mert("export", NAME, tmp_path / "hubert", "--to", "hubert").code == 0
    theirs = transformers.HubertModel.from_pretrained(tmp_path / "hubert").eval()
    ours, wave_1N = deepcopy(nano.model), torch.from_numpy(music(1.0))[None]
    with torch.inference_mode():
        wanted = states_of(theirs(wave_1N, output_hidden_states=True))
        assert worst(ours(wave_1N), wanted) <= 1e-5
        wanted = states_of(theirs.double()(wave_1N.double(), output_hidden_states=True))
        assert worst(ours.double()(wave_1N.double()), wanted) <= 1e-10


def test_batches_and_streams_are_the_same_frames(nano: Embedder) -> None:
    """Windows and padding, for trained weights: short and long recordings beside each other, and in blocks."""
    waves = [(music(s, seed=i), 24_000) for i, s in enumerate((0.3, 2.2, 1.0, 3.7))]
    for (wave, rate), together in zip(waves, nano.embed_many(waves, batch_size=3), strict=True):
        alone = nano.embed(wave, sr=rate)
        assert all_close(together.values, alone.values)
        parts = [part.values for part in nano.stream(np.array_split(wave, 7), sr=rate)]
        assert all_close(np.concatenate(parts, axis=1), alone.values)


def _python(code: str, *arguments: object, **variables: str) -> str:
    environment = os.environ | variables | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.check
@pytest.mark.timeout(1_200)
def test_two_runs_of_its_recipe_begin_with_the_same_losses(tmp_path: Path) -> None:
    """Bit for bit, on one CPU."""
    fit = ["fit-teacher", "mel_rvq", "synth", "-o", "mel_rvq", "--clips", "12"]
    subprocess.run(mert_command(*fit), cwd=tmp_path, check=True, capture_output=True)
    train = mert_command("pretrain", "mert-nano-1", "steps=3", "warmup_steps=1", "validate_clips=8")
    runs = [
        subprocess.Popen([*train, f"out={out}"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for out in ("one", "two")
    ]
    for run in runs:
        _, said = run.communicate()
        assert run.returncode == 0, said.decode()
    one, two = ([row["loss"] for row in read_rows(tmp_path / out / "metrics.jsonl")] for out in ("one", "two"))
    assert len(one) == 3
    assert one == two
