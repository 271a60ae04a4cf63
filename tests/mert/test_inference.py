"""The fast forward pass: the numbers of Mert and of HubertModel in float32, near them in bfloat16 and int8."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from harness.oracle import Hubert, worst
from harness.sounds import REFERENCE, all_close, music, needs_reference, tiny_config, tiny_embedder

import mert
from mert.audio.recording import Recording
from mert.embedding import batching
from mert.embedding.batching import read_ahead
from mert.embedding.embedder import Embedder
from mert.inference import kernels
from mert.inference.fast import FastMert
from mert.inference.runner import Runner, whole_float32
from mert.models.config import MertConfig, base_95m, large_330m, nano
from mert.models.mert import Mert

WAVE_BN = torch.from_numpy(np.stack([music(2.3, seed=i) for i in range(3)]))
SHORT_B = torch.tensor([55_200, 20_001, 1_216])  # the last one is a single frame of `nano`
native = pytest.mark.skipif(not kernels.has_bfloat16("cpu"), reason="this CPU has no bfloat16 of its own")
vnni = pytest.mark.skipif(not kernels.has_vnni(), reason="this CPU sums 8-bit products in 16 bits")


def worst_row(got: list[torch.Tensor], wanted: list[torch.Tensor], n_frames_B: list[int]) -> float:
    """The largest difference within the valid frames of each clip."""
    rows = enumerate(n_frames_B)
    return max(worst([state[row, :n] for state in got], [state[row, :n] for state in wanted]) for row, n in rows)


def model_of(config: MertConfig, seed: int = 0) -> Mert:
    torch.manual_seed(seed)
    return Mert(config).eval()


def shapes() -> list[MertConfig]:
    """Each way a MERT may be built: post-norm, pre-norm, two convolutions, an odd positional kernel."""
    return [
        tiny_config(),
        tiny_config(pre_norm=True),
        tiny_config(conv_kernels=(40, 19), conv_strides=(20, 16), pre_norm=True),
        tiny_config(position_kernel=15, n_heads=4),
        nano(),
    ]


@pytest.mark.parametrize("config", shapes(), ids=range(5))
@pytest.mark.parametrize("lengths_B", [None, SHORT_B], ids=["even", "ragged"])
def test_it_gives_what_the_model_gives(config: MertConfig, lengths_B: torch.Tensor | None) -> None:
    model = model_of(config)
    with torch.inference_mode():
        got, wanted = FastMert(model)(WAVE_BN, lengths_B), model(WAVE_BN, lengths_B)
    n_frames = model.frontend.n_frames(torch.full((3,), WAVE_BN.shape[1]) if lengths_B is None else lengths_B).tolist()  # type: ignore[union-attr]
    assert worst_row(got, wanted, n_frames) <= 1e-5


@pytest.mark.parametrize(("config", "durations_s"), [
    (nano(), (1.0, 5.0)), *((replace(config, n_layers=3), (0.7,)) for config in (base_95m(), large_330m())),
    pytest.param(base_95m(), (1.0, 5.0), marks=pytest.mark.check),
    pytest.param(large_330m(), (1.0,), marks=pytest.mark.check),
], ids=["nano", "95m, 3 layers", "330m, 3 layers", "95m", "330m"])  # fmt: skip
def test_float32_keeps_the_tolerance_against_hubert(config: MertConfig, durations_s: tuple[float, ...]) -> None:
    """CONTRIBUTING rule 2, at the published shapes."""
    model = model_of(config)
    fast, oracle = FastMert(model), Hubert(model)
    for seconds in durations_s:
        wave_BN = torch.from_numpy(np.stack([music(seconds, seed=i) for i in range(2)]))
        assert worst(fast(wave_BN), oracle.states(wave_BN)) <= 1e-5


def test_pieces_of_the_front_end_meet_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of one frame, of a few, of several clips, or of all: the same features."""
    model = model_of(tiny_config())
    (whole,) = FastMert(model)(WAVE_BN, layers=[0])
    for n_bytes in (1, 30_000, 1_000_000):
        monkeypatch.setattr("mert.inference.fast.PIECE_BYTES", {"cpu": n_bytes})
        assert worst(FastMert(model)(WAVE_BN, layers=[0]), [whole]) <= 1e-5


def test_attention_in_bfloat16_goes_by_parts_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CPUs with bfloat16 of their own; others compute the same products slowly."""
    monkeypatch.setattr(kernels, "has_bfloat16", lambda device: True)
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 130, 16).unbind()
    q = q / 4
    for valid_BT in (None, torch.arange(130) < torch.tensor([[130], [77]])):
        mask = None if valid_BT is None else valid_BT[:, None, None]
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        assert (kernels.attention(q, k, v, valid_BT) - wanted).abs().max() <= 1e-5
        for queries, scores in ((512, 5 << 19), (50, 9_000), (1, 1)):
            monkeypatch.setattr(kernels, "QUERIES_AT_ONCE", queries)
            monkeypatch.setattr(kernels, "SCORES_AT_ONCE", scores)
            short = kernels.attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), valid_BT)
            assert cosines([short], [wanted])[0] >= 0.9999
    for queries, scores in ((50, 9_000), (1, 1)):
        monkeypatch.setattr(kernels, "QUERIES_AT_ONCE", queries)
        monkeypatch.setattr(kernels, "SCORES_AT_ONCE", scores)
        parts_GTE = kernels.attended(*(part.flatten(0, 1) for part in (q, k, v)))
        wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        assert (parts_GTE.view_as(wanted) - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("config", shapes(), ids=range(5))
def test_machines_without_onednn_get_the_same_from_torch(config: MertConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(config)
    wanted = FastMert(model)(WAVE_BN, SHORT_B)
    monkeypatch.setattr(kernels, "fused", lambda x: False)
    got = FastMert(model)(WAVE_BN, SHORT_B)
    assert worst_row(got, wanted, model.frontend.n_frames(SHORT_B).tolist()) <= 1e-5  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", shapes()[:3], ids=range(3))
def test_the_way_of_gpus_in_short_types(
    config: MertConfig, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own short products, slow on a CPU; with an offset, which the split first layer takes off."""
    model = model_of(config)
    for waves_BN, lengths_B in ((WAVE_BN[:, :24_000] + 0.7, None), (WAVE_BN[:, :20_001], SHORT_B.clamp(max=20_001))):
        wanted = FastMert(model)(waves_BN, lengths_B)
        with monkeypatch.context() as patched:
            patched.setattr(kernels, "fused", lambda x: False)
            for module in ("mert.inference.kernels", "mert.inference.fast"):
                patched.setattr(f"{module}.arithmetic", lambda dtype, device: dtype)
            got = FastMert(model, dtype)(waves_BN, lengths_B)
        frames_B = model.frontend.n_frames(torch.tensor([24_000] * 3) if lengths_B is None else lengths_B)
        for row, n in enumerate(frames_B.tolist()):  # type: ignore[union-attr]
            assert min(cosines([state[row, :n] for state in got], [state[row, :n] for state in wanted])) >= 0.999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cpu_without_a_short_type_computes_in_float32_and_rounds(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's own short products take a hundred times as long there."""
    monkeypatch.setattr(kernels, "has_bfloat16", lambda device: False)
    model = model_of(tiny_config())
    fast = FastMert(model, dtype)
    assert fast.blocks[0].up.weight_OK.dtype == torch.float32
    assert torch.equal(fast.blocks[0].up.weight_OK, model.encoder.blocks[0].ffn.up.weight.to(dtype).float())  # type: ignore[union-attr]
    for lengths_B in (None, SHORT_B):
        got, wanted = fast(WAVE_BN, lengths_B), FastMert(model)(WAVE_BN, lengths_B)
        assert all(state.dtype == dtype for state in got)
        assert min(cosines([state[:1] for state in got], [state[:1] for state in wanted])) >= 0.9999


@native
def test_bfloat16_is_nearly_the_same_where_it_is_not_native(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(nano())
    wanted = FastMert(model, torch.bfloat16)(WAVE_BN)
    monkeypatch.setattr(kernels, "has_bfloat16", lambda device: False)
    assert min(cosines(FastMert(model, torch.bfloat16)(WAVE_BN), wanted)) >= 0.9999


def test_nothing_above_the_highest_layer_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = FastMert(model_of(tiny_config()))
    all_states = fast(WAVE_BN)
    fast.blocks[2] = None  # type: ignore[call-overload]
    assert all(torch.equal(a, all_states[i]) for a, i in zip(fast(WAVE_BN, layers=[2, 0]), (2, 0), strict=True))


def test_an_offset_or_a_huge_gain_costs_no_precision() -> None:
    """The first norm takes them off; in bfloat16 they would eat the eight bits there are."""
    model = model_of(tiny_config())
    for wave_BN in (WAVE_BN + 0.7, WAVE_BN * 1e3):
        with torch.inference_mode():
            assert worst(FastMert(model)(wave_BN), model(wave_BN)) <= 1e-5
            assert min(cosines(FastMert(model, torch.bfloat16)(wave_BN), model(wave_BN))) >= 0.999


def cosines(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> list[float]:
    """Mean cosine of frames, for each layer."""
    pairs = zip(got, wanted, strict=True)
    return [float(torch.cosine_similarity(a.double(), b.double(), dim=-1).mean()) for a, b in pairs]


def real_recordings() -> Iterator[np.ndarray]:
    """Of each up to 10 s, at 24 kHz."""
    for path in sorted((REFERENCE / "audio").rglob("*")):
        if path.suffix in (".wav", ".ogg"):
            yield np.concatenate(list(Recording(path).blocks(24_000)))[:240_000]


@needs_reference
@pytest.mark.parametrize("dtype, least", [("bfloat16", 0.999), ("int8", 0.999)])
@pytest.mark.parametrize("name", ["mert-nano", pytest.param("random-95m", marks=pytest.mark.check)])
def test_short_types_stay_near_float32_on_real_recordings(name: str, dtype: str, least: float) -> None:
    m = mert.load(name, device="cpu") if name == "mert-nano" else mert.random_model("95m")
    clips = [(wave_N, 24_000) for wave_N in real_recordings()]
    clips = clips if name == "mert-nano" else clips[::3]
    exact = list(m.embed_many(clips, dtype="float32"))
    for wanted, got in zip(exact, m.embed_many(clips, dtype=dtype), strict=True):
        assert got.meta["dtype"] == dtype and got.values.dtype == np.float32
        values = (torch.from_numpy(features.values) for features in (got, wanted))
        assert min(cosines(*(list(each.unbind()) for each in values))) >= least


@native
def test_auto_is_bfloat16_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny_embedder().embed(music(1), sr=24_000).meta["dtype"] == "float32"  # as all tests see it
    monkeypatch.setattr(Runner, "has_bfloat16", staticmethod(kernels.has_bfloat16))
    m = tiny_embedder()
    assert m.embed(music(1), sr=24_000).meta["dtype"] == "bfloat16"
    assert m.embed(music(1), sr=24_000, dtype="float32").meta["dtype"] == "float32"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    assert not kernels.has_bfloat16.__wrapped__("cpu")


def test_auto_is_float32_for_a_model_that_does_not_tolerate_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that is all but one-hot turns rounding into other choices."""
    monkeypatch.setattr(Runner, "has_bfloat16", staticmethod(lambda device: True))
    m = mert.random_model("nano")
    assert m.settings().dtype == "bfloat16"
    with torch.no_grad():
        for block in m.model.encoder.blocks:
            block.attention.query.weight.mul_(100)  # type: ignore[union-attr]
            block.attention.key.weight.mul_(100)  # type: ignore[union-attr]
    assert m.settings().dtype == "float32"
    assert m.embed(music(1), sr=24_000, dtype="bfloat16").meta["dtype"] == "bfloat16"  # who asks for it gets it


@pytest.mark.parametrize("wide_sums", [False, pytest.param(True, marks=vnni)])
def test_int8_rounds_weights_by_row_and_keeps_the_engine_as_it_was(
    wide_sums: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On inputs and weights at their largest, where sums of 16 bits overflow, too."""
    monkeypatch.setattr(kernels, "has_vnni", lambda: wide_sums)
    product = kernels.Int8Product(torch.ones(8, 64), torch.zeros(8))
    assert (product(torch.linspace(0.9, 1.0, 320).view(1, 5, 64)).sub(64 * 0.95).abs() < 5).all()
    engine = torch.backends.quantized.engine
    torch.manual_seed(0)
    weight_OK, x_BTK = torch.randn(8, 32) * torch.logspace(-3, 3, 8)[:, None], torch.randn(2, 5, 32)
    product = kernels.Int8Product(weight_OK, torch.zeros(8))
    wanted = x_BTK @ weight_OK.T
    error_O = (product(x_BTK) - wanted).pow(2).mean((0, 1)).sqrt() / wanted.pow(2).mean((0, 1)).sqrt()
    assert error_O.max() < 0.02  # with one scale for all rows the smallest would be lost
    assert torch.backends.quantized.engine == engine


def test_int8_does_not_notice_neighbours_padding_or_blocks() -> None:
    """Each clip has a scale of its own."""
    m = mert.random_model("nano")
    waves = [(music(s, seed=i) * (1 + 9 * i), 24_000) for i, s in enumerate((1.0, 0.4, 2.2))]
    for (wave_N, _), together in zip(waves, m.embed_many(waves, dtype="int8", batch_size=8), strict=True):
        alone = m.embed(wave_N, sr=24_000, dtype="int8")
        assert alone.meta["dtype"] == "int8" and all_close(together.values, alone.values)
        parts = [part.values for part in m.stream(np.array_split(wave_N, 5), sr=24_000, dtype="int8")]
        assert all_close(np.concatenate(parts, axis=1), alone.values)


def test_float32_is_whole_on_a_gpu_and_the_users_settings_stay() -> None:
    """TF32 keeps ten bits; nothing else of cuDNN is touched, and on a CPU nothing at all."""
    cudnn = torch.backends.cudnn
    before = torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        with whole_float32(torch.device("cuda")):
            assert cudnn.conv.fp32_precision == "ieee" and cudnn.enabled
        assert cudnn.conv.fp32_precision == "tf32"
        assert tiny_embedder().embed(music(0.5), sr=24_000).values.size
    finally:
        torch.backends.fp32_precision = before


def test_a_model_made_in_inference_mode_embeds() -> None:
    with torch.inference_mode():
        m = tiny_embedder()
    assert all_close(m.embed(music(1), sr=24_000).values, tiny_embedder().embed(music(1), sr=24_000).values)


def test_choosing_a_type_keeps_one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "has_bfloat16", staticmethod(lambda device: True))
    m = tiny_embedder()
    assert m.embed(music(1), sr=24_000).meta["dtype"] == "bfloat16" and list(m.runner._fast) == ["bfloat16"]


def test_weights_that_change_are_noticed() -> None:
    m = tiny_embedder()
    before = m.embed(music(1), sr=24_000).values
    with torch.no_grad():
        m.model.encoder.blocks[0].ffn.up.weight.mul_(2)  # type: ignore[union-attr]
    after = m.embed(music(1), sr=24_000).values
    assert np.array_equal(before[0], after[0]) and not np.allclose(before[1], after[1])
    with torch.inference_mode():
        wanted = torch.stack(m.model(torch.from_numpy(normalised(music(1)))[None]))[:, 0]
    assert worst([torch.from_numpy(after)], [wanted]) <= 1e-5


def normalised(wave_N: np.ndarray) -> np.ndarray:
    wave_N = wave_N[: 320 * 73 + 400]
    return ((wave_N - wave_N.mean()) / wave_N.std()).astype(np.float32)


def test_a_fast_model_shares_what_it_need_not_change() -> None:
    model = model_of(nano())
    fast = FastMert(model)
    assert fast.blocks[0].up.weight_OK.data_ptr() == model.encoder.blocks[0].ffn.up.weight.data_ptr()  # type: ignore[union-attr]


def test_reading_ahead_keeps_order_raises_in_its_place_and_ends_with_its_reader() -> None:
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i
        raise OSError("the disk is gone")

    reading = read_ahead(numbers(), 2)
    assert next(reading) == 0
    deadline = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1, 2]  # two are ready before they are asked for, and no more
    assert [next(reading) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(OSError, match="gone"):
        next(reading)


def test_an_embedding_that_is_given_up_leaves_no_thread(
    tiny: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "has_spare_core", lambda device: True)
    soundfile.write(tmp_path / "long.wav", music(30), 24_000)
    before = threading.active_count()
    frames = tiny.frames(Recording(tmp_path / "long.wav"), tiny.settings(batch_size=1))
    next(frames)
    assert threading.active_count() == before + 1  # it reads ahead
    frames.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_threads_that_wait_sleep_unless_the_user_decides_otherwise() -> None:
    code = "import os, mert; mert.Mert; import sys; print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    known = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, wanted in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run([sys.executable, "-c", code], env=known | given, capture_output=True, text=True)
        assert done.stdout.split() == [wanted, "True"], done.stderr
