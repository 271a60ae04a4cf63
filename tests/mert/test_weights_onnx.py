"""The ONNX file, run by onnxruntime: the states of the model for any batch and length."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from harness.commands import run_mert
from harness.oracle import worst
from harness.sounds import music, tiny_embedder

import mert
from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError, MertError
from mert.models.frontend import normalized
from mert.weights.onnx_export import check_onnx, export_onnx

onnxruntime = pytest.importorskip("onnxruntime", reason="comes with the extra [onnx]")
pytest.importorskip("onnx", reason="comes with the extra [onnx]")


def states(path: Path, wave_BN: np.ndarray) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(torch.from_numpy(session.run(["states"], {"wave": wave_BN})[0]))


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Path]:
    m = tiny_embedder(pre_norm=request.param)
    return m, export_onnx(m.model, tmp_path_factory.mktemp("exported") / "model.onnx", m.info)


def test_the_file_names_its_licence(exported: tuple[Embedder, Path]) -> None:
    about = onnxruntime.InferenceSession(str(exported[1]), providers=["CPUExecutionProvider"]).get_modelmeta()
    assert about.custom_metadata_map["name"] == "tiny" and about.custom_metadata_map["licence"] == "Apache-2.0"


def test_any_batch_and_length_and_windows_are_normalised_inside(exported: tuple[Embedder, Path]) -> None:
    m, path = exported
    for seconds, clips in ((0.1, 3), (1.7, 1)):
        wave_BN = 0.3 + np.stack([music(seconds, seed=i) for i in range(clips)])
        got = states(path, wave_BN)
        wanted = [m.embed(wave_N, sr=24_000, window="whole", dtype="float32").values for wave_N in wave_BN]
        assert worst(got, list(torch.from_numpy(np.stack(wanted, 1)))) <= 1e-5


def test_the_model_is_left_as_it_was(exported: tuple[Embedder, Path]) -> None:
    after = exported[0].model.state_dict()
    before = tiny_embedder(pre_norm=exported[0].model.config.pre_norm).model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_the_file_holds_no_path_of_the_machine_it_was_made_on(exported: tuple[Embedder, Path]) -> None:
    written = exported[1].read_bytes()
    assert not any(str(Path(module.__file__).parents[1]).encode() in written for module in (mert, torch))


def test_the_command_exports_and_checks_the_bundled_model(tmp_path: Path) -> None:
    done = run_mert("export", "mert-nano", tmp_path / "out", "--to", "onnx", "--check")
    assert done.code == 0 and "largest difference" in done.out, done.err
    wave_BN = music(1)[None]
    model = mert.load("mert-nano", device="cpu").model.double()
    with torch.inference_mode():
        wanted = model(torch.from_numpy(normalized(wave_BN[0]))[None].double())
    assert worst(states(tmp_path / "out" / "model.onnx", wave_BN), wanted) <= 1e-5


def test_another_models_file_does_not_pass(exported: tuple[Embedder, Path]) -> None:
    m, path = exported
    with pytest.raises(CheckpointError, match="states differ by"):
        check_onnx(tiny_embedder(seed=1, pre_norm=m.model.config.pre_norm).model, path)


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MertError, match=r"onnx is not installed.*\[onnx\]"):
        export_onnx(tiny_embedder().model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
