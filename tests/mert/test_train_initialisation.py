"""Informed starts: a front end that hears bands before any training, and classes that lie as their codes do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from mert.errors import UsageError
from mert.models.config import nano
from mert.models.frontend import ConvFrontend
from mert.train.initialisation import MAX_SHARE, MIN_HZ, PHASES, gabor, init_classes, init_filterbank, mel_spaced
from mert.train.objective import CodeHead

RATE_HZ, N_BANDS = 24_000, 85
SHORT, LONG = ((40, 19), (20, 16)), ((64, 19), (64, 5))  # kernels and strides that read 400 and 1216 samples a frame


def started(n_channels: int = 256, shape: tuple[tuple[int, ...], tuple[int, ...]] = SHORT) -> ConvFrontend:
    kernels, strides = shape
    frontend = ConvFrontend(replace(nano(), conv_dim=n_channels, conv_kernels=kernels, conv_strides=strides))
    init_filterbank(frontend, RATE_HZ)
    return frontend


def bands_hz() -> np.ndarray:
    return mel_spaced(MIN_HZ, MAX_SHARE * RATE_HZ / 2, N_BANDS)


@pytest.mark.parametrize("shape", [SHORT, LONG])
@pytest.mark.parametrize("band", [5, 25, 53, 80])
def test_a_tone_is_loudest_in_the_band_it_belongs_to(band: int, shape: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Noise under the tone gives all first channels a variance to be normalised by."""
    frontend, random = started(shape=shape), np.random.default_rng(0)
    tone_hz = bands_hz()[band]
    wave_N = np.sin(2 * np.pi * tone_hz * np.arange(RATE_HZ) / RATE_HZ) + 0.1 * random.standard_normal(RATE_HZ)
    with torch.no_grad():
        features_TC = frontend(torch.from_numpy(wave_N.astype(np.float32))[None])[0]
    loudness_F = by_phase(features_TC).sum(2).mean(0)
    assert abs(int(loudness_F.argmax()) - band) <= 1


def by_phase(features_TC: torch.Tensor) -> torch.Tensor:
    """The phases of each band apart, without the spare channels at the end."""
    return features_TC[:, : N_BANDS * PHASES].unflatten(1, (N_BANDS, PHASES))


def test_a_steady_tone_is_equally_loud_in_every_frame() -> None:
    """The half waves of all phases of a band add up to nearly the same, wherever in its period a frame begins."""
    frontend = started(shape=LONG)
    wave_N = np.sin(2 * np.pi * bands_hz()[30] * np.arange(RATE_HZ) / RATE_HZ)
    with torch.no_grad():
        loudness_T = by_phase(frontend(torch.from_numpy(wave_N.astype(np.float32))[None])[0])[:, 30].sum(1)
    assert float(loudness_T.max() / loudness_T.min()) < 1.2


@pytest.mark.parametrize(("shape", "length"), [(SHORT, 400), (LONG, 1216)])
def test_the_second_layer_hears_long_filters_through_the_first(
    shape: tuple[tuple[int, ...], tuple[int, ...]], length: int
) -> None:
    """Before its GELU it is the correlation with each band's filter over all its samples, up to one scale.

    The norm's estimates of the level of each tap, which the noise of few patches blurs, come from a few seconds.
    """
    frontend, heard = started(shape=shape), []
    frontend.convs[1].register_forward_hook(lambda module, inputs, output: heard.append(output))
    wave_N = torch.randn(8 * RATE_HZ, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        frontend(wave_N[None])
    filters_FN = gabor(bands_hz(), length, RATE_HZ, PHASES).float()
    wanted_TF = wave_N.unfold(0, length, 320) @ filters_FN.T
    cosine_F = cosine_similarity(heard[0][0][:, : len(filters_FN)], wanted_TF, dim=0)
    assert cosine_F.min() > 0.98


def heard_db(wave_N: np.ndarray) -> np.ndarray:
    """Level of each band before the second GELU, in dB."""
    frontend, heard = started(), []
    frontend.convs[1].register_forward_hook(lambda module, inputs, output: heard.append(output))
    with torch.no_grad():
        frontend(torch.from_numpy(wave_N.astype(np.float32))[None])
    return 10 * np.log10(by_phase(heard[0][0].square()).sum(2).mean(0).numpy())


def test_the_norm_takes_off_the_level_and_leaves_the_spectrum() -> None:
    """Treble 20 dB softer is heard 20 dB softer below the same bass; a norm behind filters would hide it."""
    random, n = np.random.default_rng(0), 2 * RATE_HZ
    spectrum, hz = np.fft.rfft(random.standard_normal(n)), np.fft.rfftfreq(n, 1 / RATE_HZ)
    bass, treble = (np.fft.irfft(spectrum * kept, n) for kept in ((hz > 150) & (hz < 1500), (hz > 4000) & (hz < 9000)))
    centres_hz = bands_hz()
    low, high = (centres_hz > 300) & (centres_hz < 1200), (centres_hz > 5000) & (centres_hz < 8000)
    equal_db, softer_db = heard_db(bass + treble), heard_db(bass + 0.1 * treble)
    tilt_db = (softer_db - equal_db)[high].mean() - (softer_db - equal_db)[low].mean()
    assert tilt_db == pytest.approx(-20, abs=1)
    assert heard_db(0.2 * (bass + treble)) == pytest.approx(equal_db, abs=0.05)


def test_other_front_ends_are_refused() -> None:
    with pytest.raises(UsageError, match="2 convolutions of 64 channels cannot begin as a filterbank"):
        started(n_channels=64)
    with pytest.raises(UsageError, match="7 convolutions of 128 channels cannot begin as a filterbank"):
        seven = replace(nano(), conv_dim=128, conv_kernels=(10, 3, 3, 3, 3, 2, 2), conv_strides=(5, 2, 2, 2, 2, 2, 2))
        init_filterbank(ConvFrontend(seven), RATE_HZ)


@pytest.mark.parametrize("width", [4, 12, 16])
def test_classes_lie_as_their_codes_do(width: int) -> None:
    """Inner products are those of the centred codes, up to one scale: all of them, or the best of so few dimensions."""
    codes_CD = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -1, 12)
    centred_CD = codes_CD - codes_CD.mean(0)
    head = CodeHead(8, [50], width, extra_classes=4)
    special_XE = head.classes[:4].clone()
    init_classes(head, [codes_CD], "mel_rvq")
    placed_CE = head.classes[4:].detach()
    u, s, _ = torch.linalg.svd(centred_CD, full_matrices=False)
    best_CC = (u[:, :width] * s[:width] ** 2) @ u[:, :width].T
    found_CC = placed_CE @ placed_CE.T
    assert (found_CC / found_CC.norm() - best_CC / best_CC.norm()).abs().max() < 1e-5
    assert torch.equal(head.classes[:4], special_XE)


def test_a_teacher_without_places_is_refused() -> None:
    with pytest.raises(UsageError, match="teacher cqt: does not say where its codes lie"):
        init_classes(CodeHead(8, [50], 4), [], "cqt")


def test_placed_classes_are_learned_with_fewer_examples() -> None:
    """A linear map from what was quantised to its code: after 30 steps, far ahead of classes placed at random."""
    random = torch.Generator().manual_seed(0)
    codes_CD = torch.randn(256, 16, generator=random)
    x_ND = codes_CD[torch.randint(256, (4000,), generator=random)] + 0.1 * torch.randn(4000, 16, generator=random)
    codes_N = torch.cdist(x_ND, codes_CD).argmin(1)
    losses = []
    for placed in (False, True):
        torch.manual_seed(0)
        head = CodeHead(16, [256], 16)
        if placed:
            init_classes(head, [codes_CD], "mel_rvq")
        optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            cross_entropy(head.logits(x_ND[:3000])[0], codes_N[:3000]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(float(cross_entropy(head.logits(x_ND[3000:])[0], codes_N[3000:])))
    assert losses[1] < 0.5 * losses[0]
