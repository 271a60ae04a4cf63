"""A small codec of EnCodec's architecture, trained on a corpus from the package's own modules: RVQ-VAE codes offline.

Shapes: B crops, N samples, T frames, D code dimensions, K codebooks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from teachers.base import TeacherError
from teachers.encodec import Architecture, EncodecTeacher, build, encodec_package, layers
from teachers.fitting import Reservoir, pieces, residual_kmeans

FFT_SIZES = (256, 1024, 2048)


class SmallEncodecTeacher(EncodecTeacher):
    """As `encodec`, with a codec fitted here; `losses` holds one value a step after `fit`."""

    name = "encodec_small"
    losses: tuple[float, ...] = ()

    @classmethod
    def fit(
        cls, waves: Iterable[np.ndarray], *, steps: int = 2000, batch_clips: int = 8, crop_s: float = 1.0,
        sample_clips: int = 2048, lr: float = 3e-4, seed: int = 0, n_filters: int = 8, dimension: int = 64,
        lstm: int = 1, n_codebooks: int = 8, n_classes: int = 1024,
    ) -> Self:  # fmt: skip
        """Train on a bounded sample of crops, then refit the codebooks by residual k-means on the trained latents.

        The refit is needed because encodec 0.1.1 overwrites the codes it revives, so that rare ones die out.
        TeacherError if there is no crop of `crop_s` or too few frames for `n_classes`.
        """
        encodec_package()
        architecture = Architecture(n_filters, 1, lstm, dimension, n_codebooks, n_classes)
        crops_MN = sample_crops(waves, architecture, crop_s, sample_clips, seed)
        with torch.random.fork_rng(devices=[]):  # the package draws from torch's global generator
            torch.manual_seed(seed)
            parts = build(architecture, decoder=True)
            losses = train(parts, crops_MN, steps, batch_clips, lr, architecture.sample_rate // architecture.hop)
            latents_ND = encode(parts, crops_MN)
        codebooks_KCD = residual_kmeans(latents_ND, n_codebooks, n_classes, seed, cls.name)
        for layer, embed_CD in zip(layers(parts), codebooks_KCD, strict=True):
            layer._codebook.embed.copy_(embed_CD)
            layer._codebook.inited.fill_(1)
        kept = {key: value for key, value in parts.state_dict().items() if not key.startswith("decoder.")}
        teacher = cls(architecture, kept)
        teacher.losses = tuple(losses)
        return teacher


def sample_crops(waves: Iterable[np.ndarray], a: Architecture, crop_s: float, size: int, seed: int) -> Tensor:
    """A uniform sample [M, N] of the corpus' consecutive crops; TeacherError if there is none."""
    n = max(1, round(crop_s * a.sample_rate / a.hop)) * a.hop
    reservoir = Reservoir(size, seed)
    for wave_1N in pieces(waves, a.sample_rate, "encodec_small"):
        reservoir.add(wave_1N[0].unfold(0, n, n).numpy() if wave_1N.shape[1] >= n else np.empty((0, n), np.float32))
    if not reservoir.n_seen:
        reason = f"the corpus holds 0 crops of {crop_s:g} s"
        raise TeacherError("encodec_small", reason, "give longer recordings or a smaller crop_s")
    return torch.from_numpy(reservoir.rows())


def train(parts: nn.ModuleDict, crops_MN: Tensor, steps: int, batch_clips: int, lr: float, rate_hz: int) -> list[float]:
    """Minimise reconstruction plus commitment loss over random batches; the loss of each step."""
    optimizer = torch.optim.Adam(parts.parameters(), lr=lr, betas=(0.5, 0.9))
    losses = []
    parts.train()
    for _ in range(steps):
        wave_B1N = crops_MN[torch.randint(len(crops_MN), (batch_clips,))][:, None]
        quantised = parts["quantizer"](parts["encoder"](wave_B1N), rate_hz)
        restored_B1N = parts["decoder"](quantised.quantized)[..., : wave_B1N.shape[2]]
        loss = reconstruction(restored_B1N[:, 0], wave_B1N[:, 0]) + quantised.penalty
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise TeacherError("encodec_small", f"the loss is {losses[-1]} at step {len(losses)}", "lower lr")
    return losses


def reconstruction(got_BN: Tensor, wanted_BN: Tensor) -> Tensor:
    """Mean absolute error of samples, and of log spectra at three resolutions.

    >>> float(reconstruction(torch.ones(1, 4096), torch.ones(1, 4096)))
    0.0
    """
    loss = l1_loss(got_BN, wanted_BN)
    for n_fft in FFT_SIZES:
        loss = loss + l1_loss(log_spectrum(got_BN, n_fft), log_spectrum(wanted_BN, n_fft)) / len(FFT_SIZES)
    return loss


def log_spectrum(wave_BN: Tensor, n_fft: int) -> Tensor:
    window = torch.hann_window(n_fft, device=wave_BN.device)
    complex_BFT = torch.stft(wave_BN, n_fft, n_fft // 4, window=window, pad_mode="constant", return_complex=True)
    return (complex_BFT.abs() / n_fft**0.5 + 1e-3).log()


@torch.no_grad()
def encode(parts: nn.ModuleDict, crops_MN: Tensor) -> np.ndarray:
    """The latents [M * T, D] of all crops, a few at a time."""
    parts.eval()
    latents = [parts["encoder"](crops_BN[:, None]).transpose(1, 2).flatten(0, 1) for crops_BN in crops_MN.split(8)]
    return torch.cat(latents).numpy()
