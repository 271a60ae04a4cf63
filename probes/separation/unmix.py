"""The separation probe: Open-Unmix's network on frozen features, one per target, and songs separated with four.

Shapes: B segments, L layers, T frames, D feature size, H hidden size, F bins, C channels, N samples, J targets.
"""

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.files import writing
from mert.models.cpu import Linear
from probes.features.stores import FrameStore, Layer
from probes.fit import Policy, seeded, train
from probes.heads import LayerSum
from probes.metrics import STEMS
from probes.separation.stft import Overlap, Stft, at_times
from probes.separation.wiener import wiener

Magnitudes = Mapping[str, np.ndarray]  # of each segment: mixture, then targets, [1 + J, C, F, T]
STFT = Stft()


class UnmixHead(nn.Module):
    """Frames [B, T, D], or [B, L, T, D] if made for several layers, -> mask [B, F, T] >= 0.

    The network of Stöter et al. (2019) with features instead of the mixture's spectrogram as input.

    >>> UnmixHead(dim=16, hidden=8).eval()(torch.zeros(2, 10, 16)).shape
    torch.Size([2, 1025, 10])
    """

    def __init__(
        self, dim: int, n_layers: int | None = None, hidden: int = 512, bins: int = STFT.bins, dropout: float = 0.4
    ) -> None:
        super().__init__()
        self.layers = nn.Identity() if n_layers is None else LayerSum(n_layers)
        self.squeeze = nn.Sequential(Linear(dim, hidden, bias=False), FrameNorm(hidden), nn.Tanh())
        self.lstm = nn.LSTM(hidden, hidden // 2, 3, bidirectional=True, batch_first=True, dropout=dropout)
        self.widen = nn.Sequential(
            Linear(2 * hidden, hidden, bias=False), FrameNorm(hidden), nn.ReLU(),
            Linear(hidden, bins, bias=False), FrameNorm(bins),
        )  # fmt: skip
        self.scale_F, self.shift_F = nn.Parameter(torch.ones(bins)), nn.Parameter(torch.ones(bins))

    def forward(self, frames: Tensor) -> Tensor:
        squeezed_BTH = self.squeeze(self.layers(frames))
        context_BTH, _ = self.lstm(squeezed_BTH)
        mask_BTF = self.widen(torch.cat([squeezed_BTH, context_BTH], dim=-1)) * self.scale_F + self.shift_F
        return mask_BTF.relu().transpose(1, 2)

    @torch.no_grad()
    def mask(self, frames: np.ndarray) -> Tensor:
        """[F, T] of one recording, of any length."""
        self.eval()
        return self(torch.as_tensor(frames, dtype=torch.float32, device=self.scale_F.device)[None])[0]


class FrameNorm(nn.BatchNorm1d):
    """Batch norm of [B, T, H] over all frames."""

    def forward(self, x_BTH: Tensor) -> Tensor:
        return super().forward(x_BTH.flatten(0, 1)).view_as(x_BTH)


@dataclass(frozen=True)
class SeparationFit:
    """A fitted head for one target, with the validation loss of the epoch that was kept (0: none was)."""

    head: UnmixHead
    target: str
    layer: Layer
    lr: float
    seed: int
    valid_loss: float
    epoch: int


def fit_one(
    store: FrameStore, train_pool: Magnitudes, valid_pool: Magnitudes, *, target: str, layer: Layer, lr: float,
    seed: int, hidden: int = 512, policy: Policy = Policy(), batch_segments: int = 16,
    device: str | torch.device = "cpu", stft: Stft = STFT,
) -> SeparationFit:  # fmt: skip
    """Train the head of one target; the same seed gives the same head, bit by bit, on a CPU.

    The loss is the squared error of magnitudes, mask times mixture against target, of both channels. Segments are of
    one length. The epoch with the lowest loss on the validation segments is kept.
    """
    device, names = torch.device(device), list(train_pool)
    with seeded(seed, device) as random, one_thread():
        like = store.frames(names[0], layer)  # [T, D] or [L, T, D]
        head = UnmixHead(like.shape[-1], len(like) if like.ndim == 3 else None, hidden, stft.bins).to(device)

        def loss_of(pool: Magnitudes, batch: Sequence[str]) -> Tensor:
            pairs = np.stack([pool[name][[0, 1 + STEMS.index(target)]] for name in batch])
            times_T = stft.clock.times(0, pairs.shape[-1])
            frames = np.stack([at_times(store.frames(name, layer), store.times(name), times_T) for name in batch])
            mixture, wanted = torch.as_tensor(pairs, device=device).float().unbind(1)
            mask_BFT = head(torch.as_tensor(frames, dtype=torch.float32, device=device))
            return F.mse_loss(mask_BFT[:, None] * mixture, wanted)

        def epoch(optimizer: torch.optim.Optimizer) -> None:
            for batch in batches([names[i] for i in random.permutation(len(names))], batch_segments):
                optimizer.zero_grad()
                loss_of(train_pool, batch).backward()
                optimizer.step()

        def validate() -> float:
            parts = batches(list(valid_pool), batch_segments)
            return -sum(float(loss_of(valid_pool, part)) * len(part) for part in parts) / len(valid_pool)

        best, number = train(head, lr, policy, epoch, validate)
    return SeparationFit(head, target, layer, lr, seed, -best, number)


def magnitudes(pool_SMCN: np.ndarray, names: Sequence[str], folder: Path, stft: Stft = STFT) -> Magnitudes:
    """Spectra of a pool of segments [S, 1 + J, C, N], computed once: they take longer than the rest of a step."""
    spectra = scratch((*pool_SMCN.shape[:3], stft.bins, stft.clock.n_frames(pool_SMCN.shape[-1])), folder)
    for i, wave_MCN in enumerate(pool_SMCN):
        spectra[i] = stft(torch.as_tensor(wave_MCN).float()).abs().numpy()
    return dict(zip(names, spectra, strict=True))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run a block with one torch thread: an LSTM's steps took thirty times as long with two threads on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def scratch(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """Zeros in fp16, in a temporary file in `folder` that lives as long as the array; OutputError on a full disk."""
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, 2 * math.prod(shape))  # a memory map of a full disk would end the process
        return np.memmap(file, np.float16, shape=shape)


def batches(names: Sequence[str], size: int) -> list[Sequence[str]]:
    return [names[first : first + size] for first in range(0, len(names), size)]


def song_masks(
    fits: Sequence[SeparationFit], store: FrameStore, name: str, n_samples: int, stft: Stft = STFT
) -> Tensor:
    """[J, F, T] of a whole song, from the heads of all targets in any order."""
    by_target = {fit.target: fit for fit in fits}
    if missing := [target for target in STEMS if target not in by_target]:
        raise ValueError(f"no head for {', '.join(missing)}")
    times_T = stft.times(n_samples)
    masks = []
    for fit in (by_target[target] for target in STEMS):
        masks.append(fit.head.mask(at_times(store.frames(name, fit.layer), store.times(name), times_T)))
    return torch.stack(masks)


def separate(
    mixture_CN: np.ndarray, masks: Tensor, iterations: int = 1, window: int = 600, stft: Stft = STFT
) -> np.ndarray:
    """Sources [J, C, N] of a song from masks [J, F, T] (the same for all channels) or [J, C, F, T].

    A Wiener filter takes the masked magnitudes, with the mixture's phase, in windows of `window` frames.

    >>> mixture = np.random.default_rng(0).standard_normal((2, 24_000)).astype(np.float32)
    >>> sources = separate(mixture, torch.rand(4, 1025, 74))
    >>> sources.shape, bool(abs(sources.sum(0) - mixture).max() < 1e-3)
    ((4, 2, 24000), True)
    """
    masks = masks.cpu() if masks.device.type == "mps" else masks  # where there is no double precision
    masks_JCFT = masks[:, None] if masks.dim() == 3 else masks
    mixture = torch.as_tensor(mixture_CN, dtype=torch.float32, device=masks.device)
    n_channels, n_samples = mixture.shape
    sources = Overlap(stft, (len(masks), n_channels), n_samples, masks.device)
    for first in range(0, masks.shape[-1], window):
        spectrum_CFT = stft(mixture, first, first + window)
        magnitudes_JCFT = masks_JCFT[..., first : first + window].float() * spectrum_CFT.abs()
        sources.add(wiener(spectrum_CFT, magnitudes_JCFT, iterations), first)
    return np.asarray(sources.wave().cpu().numpy())
