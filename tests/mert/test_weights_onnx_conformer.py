"""MERT-v2, MuQ and MusicFM by onnxruntime: the states of torch and of the official code, with torch and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from harness.commands import run_mert
from harness.sounds import REFERENCE, all_close, music, needs_reference

import mert
from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError
from mert.inference.onnx_runner import opened
from mert.models.conformer.config import ConformerConfig, mert_v2, muq_large
from mert.models.conformer.network import Conformer
from mert.models.frontend import normalized
from mert.weights.arrays import read_arrays
from mert.weights.checkpoints import digest, load_model, write_model
from mert.weights.conformers import shapes_of
from mert.weights.graphs import write
from mert.weights.onnx_export import check_onnx, export_folder, export_onnx
from mert.weights.registry import ModelInfo

pytest.importorskip("onnxruntime", reason="comes with the extra [onnx]")
pytest.importorskip("onnx", reason="comes with the extra [onnx]")
FAMILIES = ("mert2", "muq", "musicfm")
RATE_HZ = 24_000
TOLERANCE = 1e-4
SMALL = dict(dim=32, n_layers=2, n_heads=4, ffn_dim=48, conv_kernel=7, conv_dim=6, n_mels=20, window_s=1.0)
CONVNEXT = SMALL | dict(subsampler="convnext", conv_dim=0, stage_dims=(20, 24, 32), stage_depths=(1, 2, 1))
CONFIGS = [
    ConformerConfig(**SMALL),  # type: ignore[arg-type]
    ConformerConfig(**CONVNEXT, activation="gelu", rope="projections", conv_norm="layer", last_norm=False),  # type: ignore[arg-type]
    ConformerConfig(**SMALL | dict(n_fft=1024, hop=160, n_mels=21), activation="gelu", rope="projections"),  # type: ignore[arg-type]
    ConformerConfig(**CONVNEXT | dict(n_fft=512, hop=300), conv_norm="batch", normalize=True),  # type: ignore[arg-type]
]


def far(got_LBTD: np.ndarray, wanted_LBTD: np.ndarray) -> float:
    """Largest difference of a state, in units of max(1, its rms)."""
    assert got_LBTD.shape == wanted_LBTD.shape
    axes = tuple(range(1, got_LBTD.ndim))
    rms = np.sqrt(np.square(wanted_LBTD, dtype=np.float64).mean(axes))
    return float((np.abs(got_LBTD - wanted_LBTD).max(axes) / np.maximum(1, rms)).max())


def made(config: ConformerConfig, seed: int = 0) -> Conformer:
    """A conformer whose weights and statistics are all random: zeros and ones would hide what is left out."""
    torch.manual_seed(seed)
    model = Conformer(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and name not in ("frontend.window", "frontend.filters"):
                tensor.add_(torch.randn_like(tensor), alpha=0.1)
    return model


def made_embedder(config: ConformerConfig) -> Embedder:
    model = made(config)
    return Embedder(model, ModelInfo.of(model, "made", licence="Apache-2.0"), digest(model), device="cpu")


@torch.inference_mode()
def by_torch(model: Conformer, wave_BN: np.ndarray) -> np.ndarray:
    waves = np.stack([normalized(wave_N) for wave_N in wave_BN]) if model.config.normalize else wave_BN
    return torch.stack(model(torch.from_numpy(waves))).numpy()


def by_graph(path: Path, wave_BN: np.ndarray) -> np.ndarray:
    states: np.ndarray = opened(path).run(["states"], {"wave": wave_BN})[0]
    return states


@pytest.fixture(scope="module", params=FAMILIES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder as published, and the folder that `mert export --to onnx` writes of it."""
    if not (REFERENCE / "families").is_dir():
        pytest.skip("MERT_REFERENCE has no families")
    published, folder = REFERENCE / "families" / request.param, tmp_path_factory.mktemp(request.param)
    done = run_mert("export", published, folder, "--to", "onnx", "--check")
    assert done.code == 0 and "largest difference" in done.out, done.err
    return published, folder


def test_every_state_is_that_of_the_official_code_and_of_torch(exported: tuple[Path, Path]) -> None:
    """Of two lengths alone, and of two clips in a batch, one at a tenth of the level of the other."""
    published, folder = exported
    model, golden = load_model(published)[0], np.load(published / "golden.npz")
    for clip in ("1", "2"):
        wave_1N = golden[f"input{clip}"][None]
        got_L1TD = by_graph(folder / "model.onnx", wave_1N)
        wanted_LTD = np.concatenate([golden[f"embed{clip}"][None], golden[f"states{clip}"]])
        assert far(got_L1TD[:, 0], wanted_LTD) <= TOLERANCE
        assert far(got_L1TD, by_torch(model, wave_1N)) <= TOLERANCE
    wave_N = golden["input1"]
    for n in (1025, 24_001, 30_719):
        wave_BN = np.stack([wave_N[:n], 0.1 * wave_N[-n:]])
        got_LBTD = by_graph(folder / "model.onnx", wave_BN)
        assert far(got_LBTD, by_torch(model, wave_BN)) <= TOLERANCE
        for row, alone_N in enumerate(wave_BN):
            assert far(got_LBTD[:, row], by_graph(folder / "model.onnx", alone_N[None])[:, 0]) <= 1e-5


def test_an_exported_folder_is_loaded_embedded_and_described_like_any_model(
    exported: tuple[Path, Path], tmp_path: Path
) -> None:
    published, folder = exported
    by_torch, by_onnx = mert.load(published, device="cpu"), mert.load(folder)
    assert by_onnx.runner.name.startswith("onnxruntime") and by_onnx.sha256 == by_torch.sha256
    assert by_onnx.clock == by_torch.clock and by_onnx.layer_names == by_torch.layer_names
    assert by_onnx.info.family == by_torch.info.family and by_onnx.info.n_params == by_torch.info.n_params
    waves = [music(seconds, seed=i) for i, seconds in enumerate((2.2, 0.4, 1.0, 0.4))]
    many = list(by_onnx.embed_many([(wave_N, RATE_HZ) for wave_N in waves], batch_size=4))
    for wave_N, features in zip(waves, many, strict=True):  # of any lengths in one batch
        wanted = by_torch.embed(wave_N, sr=RATE_HZ, dtype="float32")
        assert far(features.values, wanted.values) <= TOLERANCE
        assert np.array_equal(features.times, wanted.times) and features.provenance == wanted.provenance  # type: ignore[arg-type]
        assert all_close(features.values, by_onnx.embed(wave_N, sr=RATE_HZ).values)
    song = tmp_path / "songs" / "a.wav"
    song.parent.mkdir()
    import soundfile

    soundfile.write(song, music(2.0), RATE_HZ)
    done = run_mert("embed", song.parent, "-o", tmp_path / "features", "--layers", "all", "--model", folder)
    assert done.code == 0, done.err
    assert mert.Features.load(tmp_path / "features" / "a.wav.npz").values.shape[1] == 50  # 2 s at 25 Hz


def test_int8_is_close(exported: tuple[Path, Path]) -> None:
    """A mean cosine of 0.999 in every state; measured were 0.9993 and more."""
    published, folder = exported
    wave_N = np.load(published / "golden.npz")["input1"]
    exact, rough = (mert.load(folder).embed(wave_N, sr=RATE_HZ, dtype=dtype) for dtype in ("float32", "int8"))
    lengths = np.linalg.norm(exact.values, axis=2) * np.linalg.norm(rough.values, axis=2)
    cosine_L = ((exact.values * rough.values).sum(2) / lengths).mean(1)
    assert cosine_L.min() > 0.999 and not np.array_equal(exact.values, rough.values), cosine_L


@needs_reference
@pytest.mark.parametrize("family", FAMILIES)
def test_the_runtime_reads_published_and_our_own_folders(family: str, tmp_path: Path) -> None:
    published = REFERENCE / "families" / family
    if not published.is_dir():
        pytest.skip("MERT_REFERENCE has no families")
    wanted = mert.load(published, device="cpu").embed(music(1.5), sr=RATE_HZ, dtype="float32")
    assert run_mert("convert", published, tmp_path / "ours").code == 0
    ours = mert.runtime.load(tmp_path / "ours").embed(music(1.5), sr=RATE_HZ)
    assert far(ours.values, wanted.values) <= TOLERANCE
    if family == "musicfm":
        with pytest.raises(CheckpointError, match="is a pickle, which needs torch to be read; install torch, or run"):
            mert.runtime.load(published)
        return
    got = mert.runtime.load(published).embed(music(1.5), sr=RATE_HZ)
    assert far(got.values, wanted.values) <= TOLERANCE and got.provenance == wanted.provenance


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.subsampler}-{config.n_fft}-{config.hop}")
def test_every_switch_and_window_gives_the_states_of_torch(config: ConformerConfig, tmp_path: Path) -> None:
    """Other windows, hops and mels than the published ones, and the switches in combinations that nobody published."""
    model, path = made(config), tmp_path / "model.onnx"
    export_onnx(model, path)
    for n, clips in ((max(config.least_samples, config.stride), 1), (9_600, 2), (12_345, 1), (24_100, 2)):
        wave_BN = np.stack([music(1.1, seed=i)[:n] for i in range(clips)])
        assert far(by_graph(path, wave_BN), by_torch(model, wave_BN)) <= TOLERANCE, n
    with pytest.raises(CheckpointError, match="states differ by"):
        check_onnx(made(config, seed=1), path)


def test_silence_and_a_long_clip_are_as_by_torch(tmp_path: Path) -> None:
    """Silence is at the floor of the decibels; over a minute the response norms sum many squares, and angles grow."""
    for config in CONFIGS[:2]:
        model = made(config)
        path = export_onnx(model, tmp_path / f"{config.subsampler}.onnx")
        for wave_1N in (np.zeros((1, 24_000), np.float32), music(60.0)[None]):
            assert far(by_graph(path, wave_1N), by_torch(model, wave_1N)) <= TOLERANCE


@pytest.mark.parametrize(
    "config", [*CONFIGS, mert_v2(), muq_large()], ids=lambda config: f"{config.family}-{config.dim}-{config.n_fft}"
)
def test_shapes_follow_from_the_configuration(config: ConformerConfig) -> None:
    with torch.device("meta"):
        wanted = Conformer(config).state_dict()
    assert shapes_of(config) == {name: tuple(tensor.shape) for name, tensor in wanted.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weights_are_read_as_torch_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    arrays = read_arrays(write_model(made(CONFIGS[0]), tmp_path, dtype))
    wanted = load_model(tmp_path)[0].state_dict()
    assert arrays.config == CONFIGS[0] and arrays.state.keys() == wanted.keys()
    assert all(np.array_equal(array, wanted[name].numpy()) for name, array in arrays.state.items())


def test_weights_that_a_graph_has_no_room_for_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of MERT-v2, of 2.5 GB; here the limit is none at all."""
    m = made_embedder(CONFIGS[1])
    wanted = m.embed(music(1.0), sr=RATE_HZ, dtype="float32")
    ours = mert.save_pretrained(m, tmp_path / "ours")
    monkeypatch.setattr(write, "MOST_BYTES", 0)
    folder = export_folder(m, tmp_path / "exported")
    data = folder / "model.onnx.data"
    assert data.stat().st_size > (folder / "model.onnx").stat().st_size
    for each in (mert.load(folder), mert.runtime.load(ours)):
        assert far(each.embed(music(1.0), sr=RATE_HZ, dtype="float32").values, wanted.values) <= TOLERANCE
    assert np.isfinite(mert.load(folder).embed(music(1.0), sr=RATE_HZ, dtype="int8").values).all()
    content = data.read_bytes()
    data.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model.onnx.data: sha256 is \w+, config.json has \w+"):
        mert.load(folder)
    data.unlink()
    with pytest.raises(CheckpointError, match=r"model.onnx.data: is missing; copy or export the folder again"):
        mert.load(folder)
    data.write_bytes(content)
    monkeypatch.undo()
    export_folder(m, folder)
    assert not data.exists() and mert.load(folder).sha256 == m.sha256
