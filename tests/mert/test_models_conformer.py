"""MERT-v2, MuQ and MusicFM: golden states of the official code, exact ragged batches, and files as published."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from harness.commands import run_mert
from harness.sounds import music
from safetensors.torch import load_file, save_file

import mert
from mert.errors import AudioError, CheckpointError
from mert.inference.fast_conformer import FastConformer
from mert.models.conformer.config import ConformerConfig, mert_v2, muq_large
from mert.models.conformer.logmel import LogMel
from mert.models.conformer.network import Conformer
from mert.weights.checkpoints import load_model, read_checkpoint
from mert.weights.conformers import Layout, find_layout, refuse_unlike, squeezed, to_ours

REFERENCE = Path(os.environ.get("MERT_REFERENCE", "")) / "families"
FAMILIES = ("mert2", "muq", "musicfm")
RATE_HZ = 24_000
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="MERT_REFERENCE has no families")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def network(folder: Path) -> Conformer:
    model, _, _ = load_model(folder)
    assert isinstance(model, Conformer)
    return model


def worst(got: torch.Tensor, wanted: np.ndarray) -> float:
    """Largest difference in units of max(1, rms)."""
    return float(np.abs(got.numpy() - wanted).max() / max(1.0, np.sqrt((wanted**2).mean())))


@needs_reference
@torch.inference_mode()
def test_states_are_those_of_the_official_code(family: str) -> None:
    model = network(REFERENCE / family)
    golden = np.load(REFERENCE / family / "golden.npz")
    for clip in ("1", "2"):
        wave_1N = torch.from_numpy(golden[f"input{clip}"])[None]
        mel_1LM = model.frontend(wave_1N)
        wanted_LM = golden[f"logmel{clip}"]
        assert worst(mel_1LM[0], wanted_LM if wanted_LM.shape == mel_1LM.shape[1:] else wanted_LM.T) < 1e-4
        embed, *states = model(wave_1N)
        assert worst(embed[0], golden[f"embed{clip}"]) < 1e-4
        assert len(states) == len(golden[f"states{clip}"])
        for state, wanted in zip(states, golden[f"states{clip}"], strict=True):
            assert worst(state[0], wanted) < 1e-4


@needs_reference
@torch.inference_mode()
def test_layers_above_those_asked_for_are_not_computed(family: str) -> None:
    model = network(REFERENCE / family)
    wave_1N = torch.from_numpy(np.load(REFERENCE / family / "golden.npz")["input2"])[None]
    states = model(wave_1N)
    model.blocks[1].forward = None  # type: ignore[assignment, method-assign]
    first, embed = model(wave_1N, layers=[1, 0])
    assert torch.equal(first, states[1]) and torch.equal(embed, states[0])


@needs_reference
@torch.inference_mode()
def test_a_padded_row_equals_the_clip_alone(family: str) -> None:
    model = network(REFERENCE / family)
    wave_N = torch.from_numpy(np.load(REFERENCE / family / "golden.npz")["input1"])
    lengths = torch.tensor([72_000, 30_001, 1_500, 47_999])
    rows_BN = torch.stack([torch.where(torch.arange(72_000) < n, wave_N, 0.0) for n in lengths])
    together = model(rows_BN, lengths)
    for row, n in enumerate(lengths.tolist()):
        for batched, alone in zip(together, model(wave_N[None, :n]), strict=True):
            scale = max(1.0, float(alone.square().mean().sqrt()))
            difference = float((batched[row, : alone.shape[1]] - alone[0]).abs().max()) / scale
            assert difference < 1e-5, (family, n)


@needs_reference
def test_every_tensor_at_full_size_is_used_or_named(family: str) -> None:
    """On the meta device, by names and shapes of the published files alone."""
    about = json.loads((REFERENCE / "keys.json").read_text())[family]
    kind, config = ("mert-v2", mert_v2()) if family == "mert2" else ("muq", muq_large())
    shapes = {name: tuple(shape) for name, (shape, _) in about["tensors"].items()}
    named, unused = to_ours(shapes, Layout(kind, Path("file")))
    with torch.device("meta"):
        model = Conformer(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    refuse_unlike(named, wanted, Path("file"), config)
    assert len(named) + len(unused) == len(about["tensors"]) == about["tensors_total"]
    for name, ours in named.items():
        assert squeezed(shapes[name]) == squeezed(wanted[ours]), name
    assert sum(p.numel() for p in model.parameters()) == config.n_params
    assert family != "mert2" or config.n_params == 632_295_808


@needs_reference
def test_the_fast_path_gives_the_same_states(family: str) -> None:
    """In float32 to the tolerance of the golden states, in a padded batch to 1e-5; in bfloat16 by their cosine."""
    model = network(REFERENCE / family)
    golden = np.load(REFERENCE / family / "golden.npz")
    fast = FastConformer(model)
    embed, *states = fast(torch.from_numpy(golden["input1"])[None])
    assert worst(embed[0], golden["embed1"]) < 1e-4
    for state, wanted in zip(states, golden["states1"], strict=True):
        assert worst(state[0], wanted) < 1e-4
    lengths = torch.tensor([72_000, 30_001])
    rows_BN = torch.from_numpy(golden["input1"]).expand(2, -1) * (torch.arange(72_000) < lengths[:, None])
    for batched, alone in zip(fast(rows_BN, lengths), fast(rows_BN[1:, :30_001]), strict=True):
        assert worst(batched[1, : alone.shape[1]], alone[0].numpy()) < 1e-5
    short = FastConformer(model, torch.bfloat16)(torch.from_numpy(golden["input1"])[None])
    for exact, rough in zip((embed, *states), short, strict=True):
        assert torch.cosine_similarity(exact, rough.float(), dim=2).mean() > 0.99


def test_the_log_mel_of_a_tone_has_the_published_values() -> None:
    """1 kHz at half of full scale: decibels of three bins at frame 50, and of the first one."""
    wave_1N = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(24_000, dtype=torch.float64) / RATE_HZ)[None].float()
    mel_LM = LogMel(muq_large())(wave_1N)[0]
    assert mel_LM.shape == (100, 128)
    assert mel_LM[50, 38:41].tolist() == pytest.approx([46.997, 46.830, 9.364], abs=2e-3)
    assert float(mel_LM[0, 0]) == pytest.approx(12.645, abs=2e-3)


def test_the_shortest_input_is_what_reflection_needs() -> None:
    model = Conformer(ConformerConfig(dim=64, n_layers=1, n_heads=4, ffn_dim=96, conv_dim=8)).eval()
    assert model(torch.zeros(1, 1025))[0].shape == (1, 1, 64)
    with pytest.raises(ValueError, match="1024 samples are too few"):
        model(torch.zeros(1, 1024))


@needs_reference
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE / "musicfm", tmp_path / "both")
    shutil.copy(REFERENCE / "musicfm/pretrained_msd.pt", tmp_path / "both/pretrained_fma.pt")
    with pytest.raises(CheckpointError, match="holds two models"):
        read_checkpoint(tmp_path / "both")
    with pytest.raises(CheckpointError, match=r"needs fma_stats\.json beside it"):
        read_checkpoint(tmp_path / "both/pretrained_fma.pt")
    (tmp_path / "both/fma_stats.json").write_text('{"melspec_2048_mean": 1, "melspec_2048_std": 0}')
    with pytest.raises(CheckpointError, match="deviation of the log-mel that is not positive"):
        read_checkpoint(tmp_path / "both/pretrained_fma.pt")
    shutil.copytree(REFERENCE / "muq", tmp_path / "muq")
    values = json.loads((tmp_path / "muq/config.json").read_text())
    (tmp_path / "muq/config.json").write_text(json.dumps(values | {"encoder_depth": 2}))
    with pytest.raises(CheckpointError, match=r"holds blocks\.2\."):
        read_checkpoint(tmp_path / "muq")
    for wrong, said in (
        ({"label_rate": 50}, "label_rate=50 is not implemented"), ({"encoder_dim": 0}, "no configuration of muq"),
        ({"w2v2_config": values["w2v2_config"] | {"hidden_act": "gelu"}}, "hidden_act='gelu' is not implemented"),
        ({"w2v2_config": values["w2v2_config"] | {"num_attention_heads": 0}}, "n_heads=0 is not from 1"),
        ({"encoder_depth": 10**9}, "n_layers=1000000000 is not from 1"), ({"stat": {}}, "has no melspec_2048_mean"),
    ):  # fmt: skip
        (tmp_path / "muq/config.json").write_text(json.dumps(values | wrong))
        with pytest.raises(CheckpointError, match=said):
            read_checkpoint(tmp_path / "muq")
    (tmp_path / "muq/config.json").write_text(json.dumps(values))
    assert mert.load(tmp_path / "muq/model.safetensors", device="cpu").info.family == "muq"
    (tmp_path / "muq/config.json").write_text(json.dumps(values | {"model_type": "hubert"}))
    assert find_layout(tmp_path / "muq") is None
    with pytest.raises(ValueError, match="'relu' is none of gelu, swish"):
        ConformerConfig(activation="relu")  # type: ignore[arg-type]


@needs_reference
def test_a_tensor_under_two_names_or_under_none_is_refused(tmp_path: Path) -> None:
    shutil.copytree(REFERENCE / "muq", tmp_path / "muq")
    tensors = load_file(tmp_path / "muq/model.safetensors")
    block = "model.conformer.layers.0"
    twice = {f"{block}.ffn1.w_1.bias": tensors[f"{block}.ffn1.intermediate_dense.bias"].clone()}
    for more, said in ((twice, "one tensor under two names"), ({"model.more": torch.zeros(1)}, "holds model.more")):
        save_file(tensors | more, tmp_path / "muq/model.safetensors")
        with pytest.raises(CheckpointError, match=said):
            read_checkpoint(tmp_path / "muq")


@needs_reference
def test_changed_statistics_are_noticed(family: str) -> None:
    m = mert.load(REFERENCE / family, device="cpu")
    clip = [np.load(REFERENCE / family / "golden.npz")["input2"]]
    before, sha256 = m.encode(clip, sr=RATE_HZ), m.sha256
    with torch.no_grad():
        m.model.frontend.mean.add_(0.5)
    assert m.sha256 != sha256
    assert np.abs(m.encode(clip, sr=RATE_HZ) - before).max() > 1e-3


@needs_reference
def test_a_published_folder_is_embedded_converted_and_verified(family: str, tmp_path: Path) -> None:
    """By the same door as any model: clock, windows, whole clips, pickling, our format, and states to verify it by."""
    m = mert.load(REFERENCE / family, device="cpu")
    golden = np.load(REFERENCE / family / "golden.npz")
    whole = m.embed(golden["input2"], sr=RATE_HZ, window="whole", dtype="float32")
    wanted = np.concatenate([golden["embed2"][None], golden["states2"]])
    assert whole.values.shape == wanted.shape
    for state, golden_state in zip(whole.values, wanted, strict=True):
        assert worst(torch.from_numpy(state), golden_state) < 1e-4
    first = 0.015 if family == "mert2" else 0.0
    assert whole.times[:3].tolist() == pytest.approx([first, first + 0.04, first + 0.08])
    windows = m.embed(golden["input1"], sr=RATE_HZ, window=1.0, dtype="float32")
    assert windows.values.shape[1] == 75
    alone = m.embed(golden["input1"][24_000:48_000], sr=RATE_HZ, window=1.0, dtype="float32")
    assert np.abs(windows.values[:, 25:50] - alone.values).max() < 1e-4
    assert np.array_equal(
        pickle.loads(pickle.dumps(m)).encode([golden["input2"]], sr=RATE_HZ), m.encode([golden["input2"]], sr=RATE_HZ)
    )
    folder = mert.save_pretrained(m, tmp_path / "ours")
    assert mert.verify(folder).golden is not None
    again = mert.load(folder, device="cpu").embed(golden["input2"], sr=RATE_HZ, window="whole", dtype="float32")
    assert np.array_equal(again.values, whole.values)
    assert mert.load(folder).info.family == {"mert2": "mert-v2"}.get(family, family)
    with pytest.raises(AudioError, match="too short for one frame; give at least 1025 samples"):
        m.embed(np.zeros(1024, np.float32), sr=RATE_HZ)
    assert m.embed(np.zeros(1025, np.float32) + 0.01, sr=RATE_HZ).values.shape[1] == 1
    with pytest.raises(ValueError, match="not in int8"):
        m.embed(golden["input2"], sr=RATE_HZ, dtype="int8")
    run = run_mert("export", folder, tmp_path / "hubert", "--to", "hubert")
    assert run.code == 1 and "Traceback" not in run.err


@needs_reference
def test_the_commands_take_it_like_any_model(family: str, tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / "songs").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "songs" / f"{seed}.wav", music(2.0 + seed, 44_100, seed=seed), 44_100)
    model = ("-m", REFERENCE / family, "-d", "cpu")
    embedded = run_mert("embed", tmp_path / "songs", "-o", tmp_path / "features", "--layers", "all", *model)
    assert embedded.code == 0, embedded.err
    assert mert.Features.load(tmp_path / "features/1.wav.npz").values.shape[1] == 75  # 3 s at 25 Hz
    query = tmp_path / "songs" / "2.wav"
    similar = run_mert("similar", f"{query}@0-2", tmp_path / "songs", "-k", "1", "--json", *model)
    assert similar.code == 0, similar.err
    if find_spec("pyarrow") is None:  # of the extra [probe]
        return
    task = ("-t", "nsynth_pitch", "--suite", "tiny", "--lrs", "1e-3", "--seeds", "0", "--layers", "embed,layer01")
    bench = run_mert("bench", "run", *task, "-o", tmp_path / "results", *model)
    assert bench.code == 0, bench.err
