"""The musical teachers: constant-Q magnitudes of 336 bins at 75 Hz, exact, by one FFT of the padded clip, and tonality.

Every hop-th output of a correlation is a product of spectra, folded modulo the frame rate. A bin's Hann kernel has a
narrow spectrum with a closed form, real once the kernel is centred, so a bin costs a few blocks of products (a block
is one frame rate wide: 75 Hz) and a short inverse FFT, instead of a correlation with up to 50,460 taps at every frame.
Shapes: B clips, N samples, T frames, F bins (336), J cells of a block, P blocks, M pairs of a bin and a block it reads;
C pitch classes (12, from C), K keys (24: C major to B major, then minor).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from teachers.base import Targets, Teacher, check_wave

# Krumhansl and Kessler (1982), ratings of the pitch classes from the tonic
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
SPREAD = 0.4  # of the correlations of clips, about, which the targets are divided by


class Kernels(NamedTuple):
    """All bins on one FFT grid, as a sparse matrix from lines of the spectrum to cells of the bins.

    Lines are [J, 2 P]: the blocks as they are, then shifted by half a sample, for kernels of odd length.
    """

    half_sample: Tensor  # complex64 [J, P, 1]
    lines: Tensor  # int32 [J * M]
    first: Tensor  # int32 [J * F], where the lines of a bin's cell begin
    weight: Tensor  # float32 [J * M]


@dataclass(frozen=True)
class Cqt:
    """Constant-Q magnitudes with L1-normalised Hann kernels, times sqrt(length) (MERT paper, section 3.2).

    Equals nnAudio's CQT1992v2 (`norm=1`, zero padding) to a relative rms error of about 1e-5, in float32 even
    under autocast. Shape: wave [B, N] -> magnitudes [B, T, F], T = N // hop + 1, frame t centred at sample hop * t.
    Clips of more than `longest_cells` frames are cut into overlapping pieces, which bounds the memory (18 MB of kernels
    for 5 s).

    >>> magnitude_BTF = Cqt()(0.5 * torch.sin(2 * torch.pi * 440 / 24_000 * torch.arange(120_000))[None])
    >>> tuple(magnitude_BTF.shape), int(magnitude_BTF[0, 188].argmax()), round(float(magnitude_BTF[0, 188].max()), 2)
    ((1, 376, 336), 180, 15.31)
    """

    rate_hz: int = 24_000
    hop: int = 320
    fmin_hz: float = 32.7
    n_bins: int = 336
    bins_per_octave: int = 48
    lobes: int = 32  # of a kernel's spectrum, kept on each side of its peak
    longest_cells: int = 1024

    def __post_init__(self) -> None:
        top_hz = float(self.frequencies_hz[-1]) * (1 + self.lobes / self.q)
        if self.n_bins < 1 or top_hz > (self.hop // 2) * self.rate_hz / self.hop:
            raise ValueError(f"{self.n_bins} bins reach {top_hz:.0f} Hz, beyond half of rate_hz={self.rate_hz}")
        if self.halo_cells * 3 > self.longest_cells:
            raise ValueError(f"longest_cells={self.longest_cells} must be at least {self.halo_cells * 3}")

    @property
    def q(self) -> float:
        """Periods of its own frequency in each kernel."""
        return 1 / (2 ** (1 / self.bins_per_octave) - 1)

    @property
    def frequencies_hz(self) -> np.ndarray:
        """Centre frequencies in Hz, float64 [F].

        >>> round(float(Cqt().frequencies_hz[335]), 2)
        4125.59
        """
        return self.fmin_hz * 2.0 ** (np.arange(self.n_bins) / self.bins_per_octave)

    @property
    def n_taps(self) -> np.ndarray:
        """Taps of each kernel, int64 [F].

        >>> Cqt().n_taps[[0, 335]].tolist()
        [50460, 400]
        """
        return np.ceil(self.q * self.rate_hz / self.frequencies_hz).astype(np.int64)

    @property
    def halo_cells(self) -> int:
        """Hops that the longest kernel reaches to each side."""
        return -(-(int(self.n_taps[0]) // 2 + 1) // self.hop)

    def __call__(self, wave_BN: Tensor) -> Tensor:
        """Magnitudes [B, T, F] of clips [B, N] of any length N >= 1."""
        n_frames = wave_BN.shape[1] // self.hop + 1
        with torch.autocast(wave_BN.device.type, enabled=False), one_thread(wave_BN.device):
            wave_BN = wave_BN.float()
            if n_frames + self.halo_cells <= self.longest_cells:
                # Correlation is circular: one halo of zeros behind the clip is also the one before it.
                return self._magnitudes(wave_BN, n_frames + self.halo_cells)[:, :n_frames]
            step = self.longest_cells - 2 * self.halo_cells
            pieces = [self._piece(wave_BN, t, min(step, n_frames - t)) for t in range(0, n_frames, step)]
            return torch.cat(pieces, 1)

    def _piece(self, wave_BN: Tensor, first: int, n_frames: int) -> Tensor:
        """Frames [first, first + n_frames) of a long clip, from the samples that they need."""
        start = (first - self.halo_cells) * self.hop
        part_BN = wave_BN[:, max(0, start) : start + self.longest_cells * self.hop]
        part_BN = F.pad(part_BN, (max(0, -start), 0))
        return self._magnitudes(part_BN, self.longest_cells)[:, self.halo_cells : self.halo_cells + n_frames]

    def _magnitudes(self, wave_BN: Tensor, min_cells: int) -> Tensor:
        """Magnitudes [B, J, F] of at most J * hop samples, as if they were periodic."""
        n_cells = fast_length(min_cells)
        kernels = kernels_on_grid(self, n_cells, wave_BN.device)
        n_blocks = kernels.half_sample.shape[1]  # the first of them holds negative frequencies
        spectrum_BL = torch.fft.rfft(wave_BN, n=n_cells * self.hop)
        negative_BJ = spectrum_BL[:, 1 : n_cells + 1].flip(1).conj()
        spectrum_BL = torch.cat([negative_BJ, spectrum_BL[:, : (n_blocks - 1) * n_cells]], 1)
        even_JPB = spectrum_BL.unflatten(1, (n_blocks, n_cells)).permute(2, 1, 0)
        both_JPB = torch.cat([even_JPB, even_JPB * kernels.half_sample], 1)
        lines = torch.view_as_real(both_JPB).reshape(n_cells * 2 * n_blocks, -1)  # real weights: both parts alike
        cells = F.embedding_bag(kernels.lines, lines, kernels.first, mode="sum", per_sample_weights=kernels.weight)
        folded_JFB = torch.view_as_complex(cells.view(n_cells, self.n_bins, len(wave_BN), 2))
        return torch.fft.ifft(folded_JFB, dim=0).abs().permute(2, 0, 1)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """A context in which torch uses one CPU thread: a clip takes a few milliseconds, in a handful of operations.

    OpenMP's threads wait for each other after each operation, and on busy cores that lasts until the scheduler's next
    round: 10 to 20 ms per operation. The setting holds for the calling thread.
    """
    before = torch.get_num_threads()
    if device.type != "cpu" or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fast_length(minimum: int) -> int:
    """The next length whose FFT is fast: factors 2, 3 and 5 only.

    >>> fast_length(455)
    480
    """
    return next(n for n in range(max(1, minimum), 2 * minimum + 2) if 30**30 % n == 0)


@lru_cache(maxsize=4)
def kernels_on_grid(cqt: Cqt, n_cells: int, device: torch.device) -> Kernels:
    """The kernels' spectra on the frequency grid of `n_cells * hop` samples."""
    block_hz = cqt.rate_hz / cqt.hop
    reach_F = cqt.lobes * cqt.frequencies_hz / cqt.q
    first_F = np.floor(np.maximum(cqt.frequencies_hz - reach_F, 0) / block_hz).astype(np.int64)
    last_F = np.floor((cqt.frequencies_hz + reach_F) / block_hz).astype(np.int64)
    n_blocks = int(last_F[-1]) + 2
    # Signals may be far louder below the first bin than anywhere else: every bin reads block -1 and 0 too.
    wanted = [sorted({-1, 0, *range(first, last + 1)}) for first, last in zip(first_F, last_F, strict=True)]
    n_wanted_F = np.array([len(blocks) for blocks in wanted])
    bin_M, block_M = np.arange(cqt.n_bins).repeat(n_wanted_F), np.concatenate(wanted)
    weight_JM = kernel_spectra(cqt, bin_M, block_M, n_cells).T
    cell_J1 = np.arange(n_cells)[:, None]
    lines_JM = 2 * n_blocks * cell_J1 + block_M + 1 + n_blocks * (cqt.n_taps[bin_M] % 2)
    first_JF = len(bin_M) * cell_J1 + np.cumsum(n_wanted_F) - n_wanted_F
    line_JP = cell_J1 + n_cells * np.arange(-1, n_blocks - 1)
    half_sample_JP = np.exp(-1j * np.pi * line_JP / (n_cells * cqt.hop))
    return Kernels(
        torch.from_numpy(half_sample_JP.astype(np.complex64)).unsqueeze(2).to(device),
        torch.from_numpy(lines_JM.astype(np.int32).ravel()).to(device),
        torch.from_numpy(first_JF.astype(np.int32).ravel()).to(device),
        torch.from_numpy(weight_JM.ravel()).to(device),
    )


def kernel_spectra(cqt: Cqt, bin_M: np.ndarray, block_M: np.ndarray, n_cells: int) -> np.ndarray:
    """Spectrum of each bin's kernel, centred on its own middle, in the block beside it; float32 [M, J].

    A periodic Hann window of L taps at angular frequency a has the spectrum
    sin(L a / 2) (cot(a / 2) / 2 - cot((a - d) / 2) / 4 - cot((a + d) / 2) / 4) with d = 2 pi / L.
    """
    line_MJ = block_M[:, None] * n_cells + np.arange(n_cells)
    taps_M1 = cqt.n_taps[bin_M][:, None].astype(np.float64)
    centre_M1 = cqt.frequencies_hz[bin_M][:, None] / cqt.rate_hz
    # A tiny offset keeps the removable singularity at a = 0 away.
    half_MJ = np.pi * (line_MJ / (n_cells * cqt.hop) - centre_M1) + 1e-12
    spacing = np.pi / taps_M1
    cots = 0.5 / np.tan(half_MJ) - 0.25 / np.tan(half_MJ - spacing) - 0.25 / np.tan(half_MJ + spacing)
    gain_M1 = 2 / np.sqrt(taps_M1) / cqt.hop  # L1 norm L / 2, times sqrt(L); folding divides by the hop
    return (gain_M1 * np.sin(taps_M1 * half_MJ) * cots).astype(np.float32)


class CqtTeacher(Teacher):
    """Frame targets [B, T, 336] at 75 Hz: linear constant-Q magnitudes, as MERT regresses them.

    `settings` are those of `Cqt`.
    """

    name = "cqt"

    def __init__(self, cqt: Cqt | None = None) -> None:
        self.cqt = cqt or Cqt()
        super().__init__(asdict(self.cqt), {})
        self.sample_rate, self.rate_hz = self.cqt.rate_hz, self.cqt.rate_hz / self.cqt.hop
        self.n_bins = self.cqt.n_bins

    @classmethod
    def at_rate(cls, sample_rate: int = 24_000) -> Self:
        """The same bins for music of another rate; at 16 kHz there are 50 frames a second, as in the v0 family."""
        return cls(Cqt(rate_hz=sample_rate))

    @classmethod
    def from_parts(cls, settings: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        return cls(Cqt(**settings))

    @torch.no_grad()
    def targets(self, wave_BN: Tensor) -> Targets:
        """`frames` [B, N // 320 + 1, 336], float32; frame t is centred at sample 320 t."""
        return Targets(None, self.cqt(check_wave(wave_BN, self.name)), self.rate_hz, self.fingerprint)


class TonalityTeacher(Teacher):
    """Clip targets [B, 36]: correlations with the profiles of 24 keys, over 0.4, then 12 pitch classes, standardised.

    >>> time_N = torch.arange(72_000) / 24_000
    >>> chord_N = sum(torch.sin(2 * torch.pi * hz * time_N) for hz in (261.6, 329.6, 392.0, 523.3))
    >>> int(TonalityTeacher.at_rate().targets(chord_N[None]).clips[0, :24].argmax())
    0
    """

    name = "tonality"
    n_clip_values = 36

    def __init__(self, settings: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__(settings, weights)
        self.sample_rate = self.settings["sample_rate"]
        self.cqt = Cqt(rate_hz=self.sample_rate)
        self.rate_hz = self.sample_rate / self.cqt.hop

    @classmethod
    def at_rate(cls, sample_rate: int = 24_000) -> Self:
        """For music of a rate."""
        return cls({"sample_rate": sample_rate}, {})

    @torch.no_grad()
    def targets(self, wave_BN: Tensor) -> Targets:
        """`clips` [B, 36]; a silent clip has zeros."""
        classes_BC = pitch_classes(self.cqt(check_wave(wave_BN, self.name)).sqrt().mean(1), self.cqt.bins_per_octave)
        clips = torch.cat([classes_BC @ profiles(classes_BC.device).T / 12 / SPREAD, classes_BC], 1)
        return Targets(None, None, self.rate_hz, self.fingerprint, clips)


def pitch_classes(bins_BF: Tensor, bins_per_octave: int) -> Tensor:
    """Bins that begin at C, summed around each pitch class over all octaves, at mean 0 and variance 1: [B, C]."""
    width = bins_per_octave // 12
    around_BF = bins_BF.roll(width // 2, 1)  # a semitone begins a half before its pitch
    return standardised(around_BF.unflatten(1, (-1, 12, width)).sum((1, 3)))


def standardised(x_BC: Tensor) -> Tensor:
    """Rows at mean 0 and variance 1; those without variance are 0."""
    x_BC = x_BC - x_BC.mean(1, keepdim=True)
    return x_BC / x_BC.std(1, correction=0, keepdim=True).clamp(min=1e-6)


@lru_cache(maxsize=4)
def profiles(device: torch.device) -> Tensor:
    """The profiles of all keys at mean 0 and variance 1: [K, C]."""
    of_c = torch.tensor([MAJOR, MINOR], device=device)
    return standardised(torch.cat([torch.stack([mode.roll(tonic) for tonic in range(12)]) for mode in of_c]))
