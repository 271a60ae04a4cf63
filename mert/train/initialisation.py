"""Where a small model starts from, so that it learns in an hour: a front end that already analyses sound, and classes
that lie where their teacher's codes do.

Shapes: C channels, K taps, F filters, N samples, E embedding width, D dimensions of a codebook.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mert.errors import UsageError
from mert.models.frontend import ConvFrontend
from mert.train.objective import CodeHead, Pretrainer

LOWEST_HZ, HIGHEST = 50.0, 0.9  # the bands of the second layer: from there to this share of half the rate
LEVEL_HZ = 667.0  # gain 1 here and 6 dB an octave: music of variance 1 then has a median of about 1 in every band


def informed_start(objective: Pretrainer, filterbank: bool, codebooks: Mapping[str, Sequence[Tensor]]) -> None:
    """Start the front end as a filterbank, and the classes of the named teachers where their codes lie."""
    if filterbank:
        filterbank_start(objective.model.frontend, objective.model.config.sample_rate)
    for name, places in codebooks.items():
        head = objective.code_heads[name]
        assert isinstance(head, CodeHead)
        codebook_start(head, places, name)


@torch.no_grad()
def filterbank_start(frontend: ConvFrontend, rate_hz: int) -> None:
    """Make a front end of two convolutions a filterbank: mel-spaced bands over its whole receptive field.

    The first layer hands the samples themselves on, one tap a channel: all are as loud as the clip, so the norm behind
    it takes off the clip's level and leaves its spectrum, where a norm behind filters would make every band as loud
    as the next and hide timbre. Everything comes with both signs, as GELU(x) - GELU(-x) = x: what the second layer
    hears is linear in the wave. Behind its own GELU the four phases of a band add up to its magnitude. Channels that
    are left over begin as short filters which the second layer does not listen to yet. UsageError for any other front
    end.
    """
    weights = [convolution.get_parameter("weight") for convolution in frontend.convs]
    channels, _, taps = weights[0].shape
    if len(frontend.kernels) != 2 or channels % 4 or channels < 2 * taps:
        reason = f"{len(frontend.kernels)} convolutions of {channels} channels cannot begin as a filterbank"
        remedy = "give two convolutions of 4 n channels, two a tap at least, or filterbank_start=false"
        raise UsageError("filterbank_start", reason, remedy)
    n_bands, n_spare, hop = channels // 4, channels // 2 - taps, frontend.strides[0]
    centres_hz = mel_spaced(LOWEST_HZ, HIGHEST * rate_hz / 2, n_bands)
    narrow_FN = gabor(centres_hz, taps + hop * (frontend.kernels[1] - 1), rate_hz)
    narrow_FN *= torch.from_numpy(centres_hz / LEVEL_HZ).repeat_interleave(2)[:, None]
    spare_hz = (np.arange(math.ceil(n_spare / 2)) + 0.5) * rate_hz / max(n_spare, 1)
    first_CK = torch.cat([torch.eye(taps, dtype=torch.float64), gabor(spare_hz, taps, rate_hz)[:n_spare]])
    second_FCK = torch.zeros(len(narrow_FN), len(first_CK), frontend.kernels[1], dtype=torch.float64)
    pieces_FKH = narrow_FN[:, : hop * frontend.kernels[1]].unflatten(1, (frontend.kernels[1], hop))
    second_FCK[:, :hop] = pieces_FKH.transpose(1, 2)
    second_FCK[:, hop:taps, -1] = narrow_FN[:, hop * frontend.kernels[1] :]
    weights[0].copy_(both_signs(first_CK, 0).unsqueeze(1))
    weights[1].copy_(both_signs(both_signs(second_FCK, 1), 0))


def gabor(centres_hz: np.ndarray, length: int, rate_hz: int) -> Tensor:
    """Cosine and sine at each centre under a Hann window, of norm 1: float64 [2 F, N].

    >>> gabor(np.array([1000.0]), 40, 24_000).norm(dim=1).tolist()
    [1.0, 1.0]
    """
    time_N = (torch.arange(length, dtype=torch.float64) - (length - 1) / 2) / rate_hz
    phase_FN = 2 * math.pi * torch.from_numpy(centres_hz)[:, None] * time_N
    window_N = torch.hann_window(length + 2, periodic=False, dtype=torch.float64)[1:-1]
    waves_FN = torch.stack([phase_FN.cos(), phase_FN.sin()], 1).flatten(0, 1) * window_N
    return torch.nn.functional.normalize(waves_FN, dim=1)


def mel_spaced(lowest_hz: float, highest_hz: float, n: int) -> np.ndarray:
    """Frequencies at equal distances on the mel scale.

    >>> mel_spaced(0.0, 4000.0, 3).round().tolist()
    [0.0, 1114.0, 4000.0]
    """
    lowest, highest = (2595 * math.log10(1 + hz / 700) for hz in (lowest_hz, highest_hz))
    mels = np.linspace(lowest, highest, n)
    return 700 * (10 ** (mels / 2595) - 1)


def both_signs(x: Tensor, dim: int) -> Tensor:
    """Each slice, followed by its negative.

    >>> both_signs(torch.tensor([1, 2]), 0).tolist()
    [1, -1, 2, -2]
    """
    return torch.stack([x, -x], dim + 1).flatten(dim, dim + 1)


@torch.no_grad()
def codebook_start(head: CodeHead, codebooks: Sequence[Tensor], teacher: str) -> None:
    """Place the classes of a new head as their teacher's codes [C, D] lie: by their principal components.

    Codes that sound alike then begin close together, so what is learned of one holds for its neighbours. Extra
    classes stay where they are. UsageError if the teacher does not say where its codes lie.
    """
    if not codebooks:
        reason, remedy = "does not say where its codes lie", "tokenize again, or set codebook_start=false"
        raise UsageError(f"teacher {teacher}", reason, remedy)
    for embeddings_CE, codes_CD in zip(head.classes.split(head.sizes), codebooks, strict=True):
        centred_CD = (codes_CD - codes_CD.mean(0)).double()
        axes_DD = torch.linalg.eigh(centred_CD.T @ centred_CD).eigenvectors.flip(1)
        places = centred_CD @ axes_DD[:, : head.width]
        placed_CE = torch.zeros(len(places), head.width)
        placed_CE[:, : places.shape[1]] = (places / places.std()).float()
        embeddings_CE[head.extra_classes :] = placed_CE
