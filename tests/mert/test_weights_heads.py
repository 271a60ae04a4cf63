"""Heads that come with a model go along when it is written anew, as long as its features stay the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from harness.commands import run_mert
from harness.made_heads import made_head, save_heads
from harness.sounds import music, tiny_embedder

import mert
from mert.errors import CheckpointError
from mert.weights.onnx_export import export_folder


def with_heads(folder: Path, half: bool) -> Path:
    """A tiny model, its weights in fp16 or float32, with heads for key and beats, and another file in between."""
    m = mert.load(mert.save_pretrained(tiny_embedder(), folder, half=half), device="cpu")
    save_heads(folder / "heads", key=made_head(m, "key", 1), beats=made_head(m, "beats", 2))
    (folder / "heads" / "key" / "notes.txt").write_text("mine")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_heads(tmp_path_factory.mktemp("models") / "rounded", half=True)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_heads(tmp_path_factory.mktemp("models") / "exact", half=False)


@pytest.mark.parametrize("command", ["convert", "export --to safetensors", "export --half", "export --to hubert"])
def test_a_copy_describes_as_the_model_does(rounded: Path, tmp_path: Path, command: str) -> None:
    """fp16 weights in another file, of float32 mostly: the same values, by which heads are bound to the new file."""
    assert run_mert(*command.split(), rounded, tmp_path / "copy").code == 0
    wave_N = music(2.0)
    before, after = (mert.load(folder, device="cpu") for folder in (rounded, tmp_path / "copy"))
    wanted, got = (m.describe(wave_N, sr=24_000).predictions for m in (before, after))
    assert got == wanted and got.keys() == {"key", "beats"}
    assert run_mert("verify", tmp_path / "copy").code == 0
    assert files(tmp_path / "copy" / "heads").keys() == files(rounded / "heads").keys() - {"key/notes.txt"}
    card = json.loads((tmp_path / "copy" / "heads" / "key" / "head.json").read_text())
    if before.sha256 == after.sha256:
        assert card == json.loads((rounded / "heads" / "key" / "head.json").read_text())
    else:
        assert card["encoder"] == {"name": "copy", "revision": None, "sha256": after.sha256}
        assert card["notes"] == [f"fitted on rounded (sha256 {before.sha256}), whose weights have the same values"]


@pytest.mark.parametrize("command", ["convert", "export --to safetensors", "export --half", "export --to hubert"])
def test_a_copy_of_mert_nano_has_its_recommended_layer_and_says_what_heads_are_under(
    tmp_path: Path, command: str
) -> None:
    """Two heads are under another licence than the weights, and the layer decides which features a user gets."""
    copy = tmp_path / "copy"
    assert run_mert(*command.split(), "mert-nano", copy).code == 0
    assert mert.load(copy, device="cpu").recommended_layer == mert.info("mert-nano").recommended_layer
    rows = [line for line in (copy / "README.md").read_text().splitlines() if line.startswith("| `")]
    under = {row.split("`")[1]: "under CC BY-SA 4.0" in row for row in rows}
    heads = [path.name for path in sorted((copy / "heads").iterdir())]
    assert under == {name: name in ("magnatagatune", "millionsong") for name in heads} and len(heads) == 6


def test_a_card_that_recommends_no_layer_of_the_model_is_refused(tmp_path: Path) -> None:
    folder = mert.save_pretrained(tiny_embedder(), tmp_path / "tiny")
    card = folder / "README.md"
    card.write_text(card.read_text().replace("\n---\n", "\nrecommended_layer: layer99\n---\n", 1))
    with pytest.raises(CheckpointError, match=r"README\.md: recommended_layer 'layer99' is no layer; name one of em"):
        mert.load(folder)


def test_heads_of_weights_that_are_rounded_are_left_out_and_named(
    exact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run_mert("export", exact, tmp_path / "half", "--half").code == 0
    assert not (tmp_path / "half" / "heads").exists()
    for name in ("beats", "key"):
        assert f"{exact / 'heads' / name}: left out, as it was fitted on weights that are rounded" in caplog.text
    assert mert.load(tmp_path / "half", device="cpu").heads_folder is None


def test_heads_of_weights_that_have_changed_since_are_left_out(
    exact: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnx", reason="comes with the extra [onnx]")
    m = mert.load(exact, device="cpu")
    export_folder(m, tmp_path / "same")
    assert mert.load(tmp_path / "same").describe(music(1.0), sr=24_000).predictions.keys() == {"key", "beats"}
    m.model.encoder.norm.weight.data.mul_(1.5)
    mert.save_pretrained(m, tmp_path / "changed")
    export_folder(m, tmp_path / "changed_graph")
    assert caplog.text.count("left out, as it was fitted on other weights") == 4
    for name in ("changed", "changed_graph"):
        assert mert.load(tmp_path / name).heads_folder is None
    assert mert.load(tmp_path / "changed_graph").sha256 == m.sha256


def test_a_model_that_replaces_another_does_not_verify_with_its_heads(exact: Path, tmp_path: Path) -> None:
    m = mert.load(exact, device="cpu")
    mert.save_pretrained(m, tmp_path)
    assert mert.verify(tmp_path).golden is not None
    mert.save_pretrained(tiny_embedder(1), tmp_path)
    with pytest.raises(CheckpointError, match=r"heads/beats: was fitted on exact \(sha256 \w+\), not on the weights"):
        mert.verify(tmp_path)


def test_no_empty_folder_of_heads_is_left(exact: Path, tmp_path: Path) -> None:
    """It would be taken for one with heads."""
    folder = tmp_path / "copy"
    shutil.copytree(exact, folder)
    (folder / "heads" / "key" / "notes.txt").unlink()
    other = mert.save_pretrained(tiny_embedder(1), tmp_path / "other")
    assert run_mert("convert", other, folder, "--overwrite").code == 0
    assert not (folder / "heads").exists() and mert.load(folder, device="cpu").heads_folder is None


def test_verify_names_the_heads_and_finds_a_damaged_one(exact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(exact, folder)
    assert str(mert.verify(folder)).endswith(", heads: beats, key")
    tensors = folder / "heads" / "key" / "head.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"key.head\.safetensors: sha256 is \w+, head\.json belongs to \w+"):
        mert.verify(folder)
    tensors.unlink()
    with pytest.raises(CheckpointError, match=r"heads.key: holds no head\.safetensors"):
        mert.verify(folder)
