"""The model: parity with HubertModel, exact ragged batches, and the facts of the MERT specification on inference."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from harness.oracle import Hubert, worst
from harness.sounds import music, tiny_config

from mert.errors import CheckpointError
from mert.models.config import MertConfig, base_95m, large_330m, nano
from mert.models.frontend import Conv
from mert.models.mert import Mert

TOLERANCE = 1e-5  # CONTRIBUTING rule 2
SIZES = {"95m": base_95m, "330m": large_330m}


@pytest.fixture(scope="module", params=[
    *((size, 3) for size in SIZES), *(pytest.param((size, None), marks=pytest.mark.check) for size in SIZES)
], ids=["95m, 3 layers", "330m, 3 layers", "95m", "330m"])  # fmt: skip
def published(request: pytest.FixtureRequest) -> Mert:
    """The published sizes, whole in the long tests."""
    size, n_layers = request.param
    config = SIZES[size]()
    torch.manual_seed(1)
    return Mert(replace(config, n_layers=n_layers or config.n_layers)).eval()


@pytest.fixture(scope="module")
def small() -> Mert:
    torch.manual_seed(2)
    return Mert(tiny_config()).eval()


def batch(*seconds: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Synthesised clips padded with zeros, and their lengths in samples."""
    clips = [torch.from_numpy(music(s, seed=i)) for i, s in enumerate(seconds)]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(c) for c in clips])


@torch.inference_mode()
def test_every_hidden_state_equals_hubert(published: Mert) -> None:
    oracle = Hubert(published)
    wave, _ = batch(0.8, 0.8)
    ours = published(wave)
    assert worst(ours, oracle.states(wave)) <= TOLERANCE
    assert worst(ours, oracle.states(wave, torch.ones(wave.shape, dtype=torch.long))) <= TOLERANCE
    full = torch.full((2,), wave.shape[1])
    assert worst(published(wave, full), oracle.states(wave)) <= TOLERANCE
    assert worst(published(wave[:1]), oracle.states(wave[:1])) <= TOLERANCE


@torch.inference_mode()
def test_a_padded_row_equals_the_clip_alone_and_hubert_alone(published: Mert) -> None:
    wave, lengths = batch(0.9, 0.5, 400 / 24_000)
    oracle = Hubert(published)
    padded = published(wave, lengths)
    for row, n in enumerate(lengths.tolist()):
        alone = published(wave[row : row + 1, :n])
        n_frames = alone[0].shape[1]
        rows = [state[row : row + 1, :n_frames] for state in padded]
        assert worst(rows, alone) <= TOLERANCE
        assert worst(alone, oracle.states(wave[row : row + 1, :n])) <= TOLERANCE


@torch.inference_mode()
def test_padding_is_never_read(small: Mert) -> None:
    wave, lengths = batch(1.0, 0.4)
    dirty = wave.clone()
    dirty[1, int(lengths[1]) :] = 7.0
    n_frames = int(small.frontend.n_frames(lengths)[1])
    for clean, soiled in zip(small(wave, lengths), small(dirty, lengths), strict=True):
        assert torch.equal(clean[1, :n_frames], soiled[1, :n_frames])


@pytest.mark.parametrize(("size", "total", "tensors"), [("95m", 94_371_712, 211), ("330m", 315_428_992, 403)])
def test_parameter_totals(size: str, total: int, tensors: int) -> None:
    with torch.device("meta"):
        state = Mert(SIZES[size]()).state_dict()
    assert (sum(t.numel() for t in state.values()), len(state)) == (total, tensors)


@pytest.mark.parametrize(
    ("samples", "frames"), [(400, 1), (719, 1), (720, 2), (24_000, 74), (72_000, 224), (120_000, 374), (122_880, 383)]
)
@torch.inference_mode()
def test_frame_counts(small: Mert, samples: int, frames: int) -> None:
    assert small(torch.zeros(1, samples), layers=[0])[0].shape[1] == small.frontend.n_frames(samples) == frames


def test_399_samples_are_an_error_that_says_so(small: Mert) -> None:
    with pytest.raises(ValueError, match="399 samples are too few: one frame reads 400"):
        small(torch.zeros(1, 399))
    with pytest.raises(ValueError, match="12 samples"):
        small(torch.zeros(2, 800), torch.tensor([800, 12]))


@torch.inference_mode()
def test_layers_are_given_as_asked_and_nothing_above_is_computed(small: Mert) -> None:
    wave, _ = batch(0.5)
    everything = small(wave)
    called: list[int] = []
    hooks = [
        block.register_forward_hook(lambda *_, i=i: called.append(i)) for i, block in enumerate(small.encoder.blocks, 1)
    ]
    some = small(wave, layers=[2, 0])
    for hook in hooks:
        hook.remove()
    assert called == [1, 2]
    assert torch.equal(some[0], everything[2])
    assert torch.equal(some[1], everything[0])


@torch.inference_mode()
@pytest.mark.parametrize(("gain", "offset"), [(3.0, 0.0), (0.5, 0.2), (-1.0, 0.0)])
def test_gain_and_offset_hardly_change_the_states(small: Mert, gain: float, offset: float) -> None:
    wave, _ = batch(1.0)
    wave = 0.1 * wave / wave.square().mean().sqrt()
    # The sign of the wave is not an invariance of the model: compare a negative gain with the negated wave.
    for a, b in zip(small(gain * wave + offset), small(wave * np.sign(gain)), strict=True):
        assert (a - b).norm() < 0.01 * b.norm()


@torch.inference_mode()
def test_the_folded_group_norm_equals_torchs(small: Mert) -> None:
    first = small.frontend.convs[0]
    wave, _ = batch(1.0, 1.0)
    for scaled in (wave, 1e-3 * wave, wave + 5.0):
        conv = torch.nn.functional.conv1d(scaled.double().unsqueeze(1), first.weight.double(), stride=5)
        wanted = copy.deepcopy(first.norm).double()(conv).transpose(1, 2)
        assert (first(scaled) - wanted).abs().max() < 2e-5


def test_gradients_reach_every_parameter_but_the_mask(small: Mert) -> None:
    model = copy.deepcopy(small).train()
    wave, lengths = batch(0.5, 0.3)
    sum(state.square().mean() for state in model(wave, lengths)).backward()
    silent = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert {name for name in silent if not name.endswith("key.bias")} == {"mask_embed"}  # softmax ignores a key bias


def test_the_fast_convolutions_have_the_gradients_of_a_plain_one() -> None:
    torch.manual_seed(0)
    conv, wave = Conv(16, 24, kernel=3, stride=2, fast=True), torch.randn(2, 101, 16, requires_grad=True)
    direction = torch.randn(2, 50, 24)
    (conv(wave) * direction).sum().backward()
    twin, weight = (tensor.detach().double().requires_grad_() for tensor in (wave, conv.weight))
    plain = torch.nn.functional.conv1d(twin.transpose(1, 2), weight, stride=2).transpose(1, 2)
    (plain * direction).sum().backward()
    for got, wanted in ((wave.grad, twin.grad), (conv.weight.grad, weight.grad)):
        assert got is not None and wanted is not None
        assert (got - wanted).norm() < 1e-6 * wanted.norm()
    conv.weight.requires_grad_(False)  # a frozen front end
    wave.grad = conv.weight.grad = None
    conv(wave).sum().backward()
    assert wave.grad is not None and conv.weight.grad is None


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_finite_and_close_with_large_logits(small: Mert, dtype: torch.dtype) -> None:
    model = copy.deepcopy(small)
    wave, _ = batch(1.0)
    for block in model.encoder.blocks:
        block.attention.query.weight *= 100
    with torch.autocast("cpu", dtype):
        half = model(wave)
    for a, b in zip(half, model(wave), strict=True):
        assert torch.isfinite(a).all()
        cosine = torch.nn.functional.cosine_similarity(a.float(), b, dim=-1)
        assert cosine.mean() > 0.99


def test_a_model_is_nothing_but_its_state_dict(small: Mert) -> None:
    with torch.device("meta"):
        other = Mert(small.config)
    other = other.to_empty(device="cpu").eval()
    other.load_state_dict(small.state_dict(), strict=True)
    wave, _ = batch(0.3)
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(small(wave), other(wave), strict=True))


def test_config_round_trip_and_unknown_keys() -> None:
    for config in (nano(), base_95m(), large_330m(), tiny_config(pre_norm=True)):
        assert MertConfig.from_dict(config.to_dict()) == config
    with pytest.raises(CheckpointError, match="colour"):
        MertConfig.from_dict({"colour": 1})
    with pytest.raises(ValueError, match="multiple of n_heads=5"):
        MertConfig(n_heads=5)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"conv_strides": (10**6,) * 7}, "conv_strides"),
        ({"conv_strides": (5,)}, "one entry per convolution"),
        ({"sample_rate": 1}, "sample_rate=1 is not from"),
        ({"window_s": 0.0}, "window_s"),
        ({"window_s": 0.01}, "shorter than 400 samples"),
        ({"window_s": float("nan")}, "window_s=nan"),
        ({"window_s": 10**400}, "window_s"),
        ({"dropout": 7.0}, "dropout=7"),
        ({"dim": 0}, "dim=0"),
        ({"n_heads": 0}, "n_heads=0"),
        ({"n_layers": 10**9}, "n_layers"),
        ({"conv_kernels": (), "conv_strides": ()}, "conv_kernels"),
    ],
)
def test_a_configuration_that_cannot_run_is_refused_at_once(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MertConfig(**changes)


def test_nano_is_small() -> None:
    assert sum(p.numel() for p in Mert(nano()).parameters()) < 8_000_000


@pytest.mark.parametrize("config", [nano(), base_95m(), large_330m(), tiny_config(position_kernel=15)], ids=range(4))
def test_the_number_of_parameters_follows_from_the_configuration(config: MertConfig) -> None:
    with torch.device("meta"):
        model = Mert(config)
    assert config.n_params == sum(p.numel() for p in model.parameters())
