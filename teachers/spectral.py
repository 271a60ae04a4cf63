"""Log-mel, MFCC and chroma frames by nnAudio (extra `train`), frame t centred at 320 t + 200 like the model's.

Also clips at another sample rate, for which torch suffices.
Shapes: B clips, N samples, T frames, J frames at another rate, F features.
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from teachers.base import FIELD, STRIDE, CodeTeacher, require

BLOCKS_HZ = 25  # a block of samples is 1/25 s: a whole number at all usual rates
PASSED = 0.93  # of half the lower rate; the gain falls from there to 0 at half the rate, much as soxr's does
PIECE = 1500  # frames computed at once, which bounds the memory of long recordings
FLOOR = 1e-5  # added to mel power before the logarithm; white noise of rms 0.001 is about as strong


@dataclass(frozen=True)
class Spectral:
    """One kind of frames: `mel` (natural log of mel power), `mfcc` (with two deltas) or `chroma` (unit vectors).

    Shape: wave [B, N] -> frames [B, T, F] float32, T = ceil(N / hop). TeacherError without nnAudio.
    """

    kind: str
    sample_rate: int = 24_000
    hop: int = STRIDE
    n_fft: int = 2048
    n_features: int = 128

    def __post_init__(self) -> None:
        if self.kind not in ("mel", "mfcc", "chroma"):
            raise ValueError(f"kind={self.kind!r} is none of mel, mfcc, chroma")
        if self.kind == "mfcc" and self.n_features % 3:
            raise ValueError(f"n_features={self.n_features} of mfcc must be a multiple of 3")
        require("nnAudio.features", f"{self.kind} frames", "train")

    @property
    def reach(self) -> tuple[int, int]:
        """Frames before and after a frame on whose samples it depends.

        >>> Spectral("mel").reach, Spectral("mfcc", n_fft=1024, n_features=39).reach
        ((3, 3), (5, 6))
        """
        deltas = 4 if self.kind == "mfcc" else 0
        before, after = self.n_fft // 2 - FIELD // 2, self.n_fft // 2 + FIELD // 2 - self.hop
        return -(-before // self.hop) + deltas, -(-after // self.hop) + deltas

    def __call__(self, wave_BN: Tensor) -> Tensor:
        """Frames [B, T, F]; without gradient, in float32 even under autocast."""
        n = wave_BN.shape[1]
        n_frames, left = -(-n // self.hop), self.n_fft // 2 - FIELD // 2
        layer = layer_on(self, wave_BN.device)
        pieces = []
        with torch.no_grad(), torch.autocast(wave_BN.device.type, enabled=False):
            total = (n_frames - 1) * self.hop + self.n_fft
            padded_BM = torch.nn.functional.pad(wave_BN.float(), (left, total - left - n))
            for first in range(0, n_frames, PIECE):
                last = min(first + PIECE, n_frames) - 1
                pieces.append(layer(padded_BM[:, first * self.hop : last * self.hop + self.n_fft]))
            frames_BTF = torch.cat(pieces, 2).transpose(1, 2)
            return with_deltas(frames_BTF) if self.kind == "mfcc" else frames_BTF


@lru_cache(maxsize=8)
def layer_on(spectral: Spectral, device: torch.device) -> Callable[[Tensor], Tensor]:
    """The function [B, M] -> [B, F, T] behind one kind of frames, on one device."""
    from nnAudio import features, librosa_functions

    rate, n_fft = spectral.sample_rate, spectral.n_fft
    stft = dict(sr=rate, n_fft=n_fft, hop_length=spectral.hop, center=False, verbose=False)
    if spectral.kind == "mel":
        mel = features.MelSpectrogram(n_mels=spectral.n_features, fmin=30.0, fmax=rate / 2, **stft).to(device)
        return lambda wave_BM: (mel(wave_BM) + FLOOR).log()
    if spectral.kind == "mfcc":
        n_mfcc = spectral.n_features // 3
        # top_db would tie each frame to the loudest of its clip; amin is the same floor as above
        mfcc = features.MFCC(n_mfcc=n_mfcc, n_mels=40, fmin=30.0, top_db=None, amin=FLOOR, **stft).to(device)
        return lambda wave_BM: mfcc(wave_BM)
    power = features.STFT(output_format="Magnitude", **stft).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes the logarithm of the 0 Hz bin
        bank_FL = librosa_functions.chroma(rate, n_fft, n_chroma=spectral.n_features)
    bank = torch.from_numpy(np.ascontiguousarray(bank_FL)).to(device)
    # the added 1 is far below any music and keeps silence at zero
    return lambda wave_BM: torch.nn.functional.normalize(bank @ power(wave_BM) ** 2, dim=1, eps=1.0)


class MelCodeTeacher(CodeTeacher):
    """A code teacher on log-mel frames, with `codebooks` [K, C, D] of equal size among its weights."""

    def __init__(self, mel: Spectral, weights: dict[str, Tensor]) -> None:
        super().__init__({"mel": asdict(mel)}, weights)
        self.mel = mel
        self.frames_before, self.frames_after = mel.reach
        self.sample_rate, self.rate_hz = mel.sample_rate, mel.sample_rate / mel.hop
        n_codebooks, n_classes, _ = weights["codebooks"].shape
        self.n_classes = (n_classes,) * n_codebooks

    def codebooks(self) -> list[Tensor]:
        return list(self.weights["codebooks"])

    @classmethod
    def from_parts(cls, settings: dict[str, Any], weights: dict[str, Tensor]) -> Self:
        return cls(Spectral(**settings["mel"]), weights)


def with_deltas(x_BTF: Tensor) -> Tensor:
    """Append first and second differences over five frames, as HuBERT's MFCC teacher has them: [B, T, 3 F].

    >>> with_deltas(torch.arange(5.0)[None, :, None])[0, 2].tolist()
    [2.0, 1.0, 0.0]
    """
    first_BTF = deltas(x_BTF)
    return torch.cat([x_BTF, first_BTF, deltas(first_BTF)], 2)


def deltas(x_BTF: Tensor) -> Tensor:
    """Slope of the line through five neighbours, the ends repeated."""
    n = x_BTF.shape[1]
    index = torch.arange(-2, n + 2, device=x_BTF.device).clamp(0, n - 1)
    padded = x_BTF[:, index]
    near_BTF = padded[:, 3 : n + 3] - padded[:, 1 : n + 1]
    far_BTF = padded[:, 4:] - padded[:, :n]
    return (near_BTF + 2 * far_BTF) / 10


def resampled(wave_BN: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """Clips at another rate, by their spectrum: [B, N] -> float32 [B, ceil(N * to_hz / from_hz)], sample 0 at sample 0.

    Frequencies up to 93 % of half the lower rate pass as they are. The spectrum takes a clip for periodic, so at least
    a block of zeros stands behind it. ValueError for rates that are no multiples of 25 Hz.

    >>> resampled(torch.ones(2, 24_000), 24_000, 22_050).shape
    torch.Size([2, 22050])
    """
    if from_hz % BLOCKS_HZ or to_hz % BLOCKS_HZ:
        raise ValueError(f"{from_hz} to {to_hz} Hz: the rates must be multiples of {BLOCKS_HZ} Hz")
    if from_hz == to_hz:
        return wave_BN.float()
    n_blocks = wave_BN.shape[1] * BLOCKS_HZ // from_hz + 2
    n_in, n_out = n_blocks * from_hz // BLOCKS_HZ, n_blocks * to_hz // BLOCKS_HZ
    n_lines, n_kept = min(n_in, n_out) // 2 + 1, -(-wave_BN.shape[1] * to_hz // from_hz)
    with torch.autocast(wave_BN.device.type, enabled=False):
        lines_BL = torch.fft.rfft(wave_BN.float(), n=n_in)[:, :n_lines]
        place_L = torch.arange(n_lines, device=wave_BN.device) / (n_lines - 1)
        gain_L = ((place_L - PASSED) / (1 - PASSED)).clamp(0, 1).mul(torch.pi / 2).cos() ** 4
        return torch.fft.irfft(lines_BL * gain_L * (n_out / n_in), n=n_out)[:, :n_kept]


def places_of_frames(n: int, sample_rate: int, rate_hz: int, hop: int) -> np.ndarray:
    """Centres [T] of the student's frames of `n` samples, counted in frames of `hop` samples at `rate_hz`.

    >>> places_of_frames(1040, 24_000, 16_000, 200)
    array([0.66666667, 1.73333333, 2.8       ])
    """
    n_frames = max(0, n - FIELD) // STRIDE + 1
    return (np.arange(n_frames) * STRIDE + FIELD / 2) / sample_rate * rate_hz / hop


def interpolated(frames_JF: np.ndarray, place_T: np.ndarray) -> np.ndarray:
    """Frames [T, F] at places between the given ones, linearly; beyond the ends those at the ends.

    >>> interpolated(np.float32([[0], [1], [3]]), np.array([0.25, 1.5, 9.0]))[:, 0].tolist()
    [0.25, 2.0, 3.0]
    """
    place_T = place_T.clip(0, len(frames_JF) - 1)
    before_T = (
        np.minimum(place_T.astype(int), len(frames_JF) - 2) if len(frames_JF) > 1 else np.zeros(len(place_T), int)
    )
    after_T = np.minimum(before_T + 1, len(frames_JF) - 1)
    share_T1 = (place_T - before_T)[:, None].astype(np.float32)
    return (1 - share_T1) * frames_JF[before_T] + share_T1 * frames_JF[after_T]
