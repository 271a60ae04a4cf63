"""Models run by onnxruntime: the features of torch, without importing it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness.commands import run_mert
from harness.sounds import music, tiny_config, tiny_embedder
from safetensors.torch import save_file

import mert
from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError, UsageError
from mert.models.mert import Mert
from mert.weights.arrays import read_arrays, shapes
from mert.weights.checkpoints import write_model
from mert.weights.onnx_export import export_folder

pytest.importorskip("onnxruntime", reason="comes with the extra [onnx]")
pytest.importorskip("onnx", reason="comes with the extra [onnx]")
SCRIPT = Path(__file__).parents[1] / "harness" / "without_torch.py"
BLOCKED = "import sys, runpy; sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"


def far(got_LTD: np.ndarray, wanted_LTD: np.ndarray) -> float:
    """Largest difference, in units of max(1, rms of the layer)."""
    assert got_LTD.shape == wanted_LTD.shape
    rms = np.sqrt(np.square(wanted_LTD, dtype=np.float64).mean(axis=tuple(range(1, wanted_LTD.ndim))))
    return float((np.abs(got_LTD - wanted_LTD).max(axis=tuple(range(1, wanted_LTD.ndim))) / np.maximum(1, rms)).max())


Pair = tuple[Embedder, Embedder]


@pytest.fixture(scope="module", params=[False, True], ids=["post-norm", "pre-norm"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """One model by torch and by onnxruntime; the pre-norm one is not normalised, and has an odd positional kernel."""
    kernel = 15 if request.param else 16
    m = tiny_embedder(pre_norm=request.param, normalize=not request.param, position_kernel=kernel)
    folder = mert.save_pretrained(m, tmp_path_factory.mktemp("model"))
    return mert.load(folder, device="cpu"), mert.runtime.load(folder)


@pytest.mark.parametrize("options", [
    {}, {"window": 0.3}, {"window": 0.5, "hop": 0.2}, {"window": "whole"}, {"pool": "mean"}, {"pool": "meanstd"},
    {"layers": [2, "embed"]},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("seconds, rate_hz", [(0.02, 24_000), (1.0, 24_000), (2.37, 44_100), (3.1, 8_000)])
def test_features_equal_those_of_torch(pair: Pair, options: dict[str, Any], seconds: float, rate_hz: int) -> None:
    wave_N = 0.2 + music(seconds, rate_hz)
    wanted, got = (m.embed(wave_N, sr=rate_hz, **options | {"dtype": "float32"}) for m in pair)
    assert far(got.values, wanted.values) <= 1e-4
    assert got.layers == wanted.layers and np.array_equal(got.times, wanted.times)  # type: ignore[arg-type]
    assert got.meta | {"runtime": ""} == wanted.meta | {"runtime": ""} and got.meta["runtime"].startswith("onnxr")


def test_streams_and_neighbours_in_a_batch_change_nothing(pair: Pair) -> None:
    by_torch, by_onnx = pair
    waves = [music(seconds, seed=i) for i, seconds in enumerate((2.2, 0.4, 1.0, 0.4))]
    many = list(by_onnx.embed_many([(wave_N, 24_000) for wave_N in waves], batch_size=5))
    for wave_N, features in zip(waves, many, strict=True):
        assert far(features.values, by_torch.embed(wave_N, sr=24_000, dtype="float32").values) <= 1e-4
    parts = list(by_onnx.stream(np.array_split(waves[0], 7), sr=24_000))
    assert far(np.concatenate([part.values for part in parts], 1), many[0].values) <= 1e-5


@pytest.mark.parametrize(
    "wave_N", [np.zeros(24_000), np.full(24_000, 0.5), 1e-4 * music(1.0)], ids=["zeros", "offset", "quiet"]
)
def test_silence_offsets_and_quiet_music_are_as_by_torch(pair: Pair, wave_N: np.ndarray) -> None:
    wanted, got = (m.embed(wave_N, sr=24_000, dtype="float32").values for m in pair)
    assert np.isfinite(got).all() and far(got, wanted) <= 1e-4


def test_the_command_embeds_and_exports_where_torch_cannot_be_imported(
    tmp_path: Path, write: Callable[..., Path]
) -> None:
    path = write("a.wav", music(2.5, 44_100), 44_100)
    done = subprocess.run([sys.executable, "-c", BLOCKED, SCRIPT, path.parent], capture_output=True, text=True)
    assert done.returncode == 0 and "without torch: embedded, described, exported, loaded" in done.stdout, done.stderr
    got = mert.Features.load(path.parent / "features" / "a.wav.npz")
    wanted = mert.load("mert-nano", device="cpu").embed(path, dtype="float32")
    assert far(got.values, wanted.values) <= 1e-4 and got.provenance == wanted.provenance
    assert set(got.meta) - set(wanted.meta) == {"source_sha256", "save_dtype"}


def test_what_needs_torch_says_so(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write("a.wav", music(0.5), 24_000)
    for words, said in (
        ("verify mert-nano", "torch: is not installed, and without it models only embed; pip install torch"),
        (f"embed {path} -o {tmp_path} --device cuda", "onnxruntime runs models on the CPU here"),
    ):
        line = "import sys; sys.modules['torch'] = None; from mert.cli.main import main; main()"
        done = subprocess.run([sys.executable, "-c", line, *words.split()], capture_output=True, text=True)
        assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Embedder, Path]:
    m = tiny_embedder(pre_norm=True, normalize=False)
    return m, export_folder(m, tmp_path_factory.mktemp("exported"))


def test_an_exported_folder_is_loaded_by_its_name_and_keeps_its_record(exported: tuple[Embedder, Path]) -> None:
    m, folder = exported
    loaded = mert.load(folder)
    assert loaded.sha256 == m.sha256 and loaded.clock == m.clock and loaded.layer_names == m.layer_names
    assert (loaded.info.name, loaded.info.licence, loaded.info.n_params) == ("tiny", "Apache-2.0", m.info.n_params)
    wanted, got = (each.embed(music(1.5), sr=24_000, dtype="float32") for each in (m, loaded))
    assert far(got.values, wanted.values) <= 1e-4 and got.provenance == wanted.provenance
    described = json.loads((folder / "config.json").read_text())
    assert described["clock"] == {"rate_hz": 24_000, "stride": 320, "field": 400}
    assert run_mert("info", folder).out.startswith("name               tiny")


def test_int8_is_close_and_only_offered_where_it_was_written(exported: tuple[Embedder, Path], pair: Pair) -> None:
    m, folder = exported
    wanted, got = m.embed(music(1.5), sr=24_000), mert.load(folder).embed(music(1.5), sr=24_000, dtype="int8")
    cosine = (
        (wanted.values * got.values).sum(2) / np.linalg.norm(wanted.values, axis=2) / np.linalg.norm(got.values, axis=2)
    )
    assert (
        cosine.mean(1).min() > 0.999 and got.meta["dtype"] == "int8" and not np.array_equal(wanted.values, got.values)
    )
    with pytest.raises(
        ValueError, match=r"int8 needs a folder with model\.int8\.onnx: mert export MODEL FOLDER --to onnx"
    ):
        pair[1].settings(dtype="int8")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "double"])
def test_types_that_onnxruntime_does_not_compute_in_are_refused(pair: Pair, dtype: str) -> None:
    with pytest.raises(ValueError, match=f"float32 or int8, not {dtype}: give float32, or install torch"):
        pair[1].settings(dtype=dtype)


def test_a_graph_is_not_trained_nor_converted_nor_moved_to_a_gpu(
    exported: tuple[Embedder, Path], tmp_path: Path
) -> None:
    from mert.train.start import open_start

    with pytest.raises(CheckpointError, match="holds a graph to run, which cannot be trained"):
        open_start(str(exported[1]))
    for words in (["verify"], ["convert", tmp_path / "out"], ["export", tmp_path / "out", "--to", "hubert"]):
        done = run_mert(words[0], exported[1], *words[1:])
        assert done.code == 1 and "give the folder or name that it was exported from" in done.err
    assert "holds a graph already; copy the folder" in run_mert("export", exported[1], tmp_path, "--to", "onnx").err
    with pytest.raises(UsageError, match="onnxruntime runs models on the CPU here; give auto or cpu"):
        mert.load(exported[1], device="cuda")


def test_damaged_and_unfinished_folders_are_refused(exported: tuple[Embedder, Path], tmp_path: Path) -> None:
    export_folder(exported[0], tmp_path)
    graph = (tmp_path / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model.onnx: sha256 is \w+, config.json has \w+; copy or export"):
        mert.load(tmp_path)
    (tmp_path / "model.onnx").write_bytes(graph)
    for key, value in (("format_version", 2), ("record", None), ("record", {"name": 3})):
        values = json.loads((exported[1] / "config.json").read_text()) | {key: value}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(CheckpointError, match=r"config.json: (is not mert-onnx|its record has no usable)"):
            mert.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json"):
        mert.load(tmp_path)


def test_a_runtime_model_is_pickled_by_its_folder_and_serves_threads(
    exported: tuple[Embedder, Path], pair: Pair
) -> None:
    for m in (mert.load(exported[1]), pair[1]):
        waves = [music(1.2, seed=i) for i in range(4)]
        wanted = [m.embed(wave_N, sr=24_000).values for wave_N in waves]
        again = pickle.loads(pickle.dumps(m))
        assert again.sha256 == m.look_again() == m.sha256
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda wave_N, m=again: m.embed(wave_N, sr=24_000).values, waves))  # type: ignore[misc]
        assert all(np.array_equal(got, want) for got, want in zip(together, wanted, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weights_are_read_as_torch_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    m = tiny_embedder()
    arrays = read_arrays(write_model(m.model, tmp_path, dtype))
    wanted = mert.load(tmp_path, device="cpu").model.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in wanted.items()} == shapes(m.model.config)
    assert arrays.state.keys() == wanted.keys()
    assert all(np.array_equal(array, wanted[name].numpy()) for name, array in arrays.state.items())


def test_shapes_follow_from_the_configuration() -> None:
    for config in (
        tiny_config(pre_norm=True),
        mert.MertConfig(conv_kernels=(40, 19), conv_strides=(20, 16), n_layers=2),
    ):
        with torch.device("meta"):
            wanted = Mert(config).state_dict()
        assert shapes(config) == {name: tuple(tensor.shape) for name, tensor in wanted.items()}


def test_weights_that_only_torch_reads_are_refused_with_a_remedy(tmp_path: Path) -> None:
    m = tiny_embedder()
    mert.save_pretrained(m, tmp_path)
    file = tmp_path / "model.safetensors"
    state = m.model.state_dict()
    save_file(state | {"encoder.norm.bias": torch.zeros(32, dtype=torch.int32)}, file)
    with pytest.raises(CheckpointError, match=r"encoder.norm.bias is int32; use floating-point weights"):
        mert.runtime.load(tmp_path)
    state["encoder.norm.bias"][0] = torch.nan
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"encoder.norm.bias holds NaN or Inf"):
        mert.runtime.load(tmp_path)
    del state["encoder.norm.bias"]
    save_file(state, file)
    with pytest.raises(CheckpointError, match=r"missing encoder.norm.bias \[32\]"):
        mert.runtime.load(tmp_path)
    (tmp_path / "other.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a pickle, which needs torch to be read; install torch"):
        mert.runtime.load(tmp_path / "other.bin")
