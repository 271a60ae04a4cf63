"""Encoders, which extract features for probes: MERT models, hand-made baselines, any callable wave -> [L, T, D].

Shapes: N samples, L layers, T frames, F bins, D width of a frame, P width of a pooled window (D, or 2 D).
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from mert.embedding.embedder import Embedder
from mert.embedding.features import Pooling
from mert.errors import need

Frames = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EncoderFacts:
    """Identity and clock of an encoder: `name` and `sha256`, `first_frame_s` and `frame_rate`.

    `pool` is how a window becomes one vector; `context` is the input of one pass of the encoder; `config` is the
    SHA-256 of a model's configuration, which weights do not determine: heads, norms, the training window.
    """

    name: str
    sha256: str
    sample_rate: int
    frame_rate: float
    layer_names: tuple[str, ...]
    dim: int
    pool: Literal["mean", "meanstd"] = "mean"
    first_frame_s: float = 0.0
    normalize: bool = False
    context: str = "window"
    dtype: str = "float32"
    revision: str | None = None
    config: str = ""

    @property
    def width(self) -> int:
        """Width of a pooled window in each layer."""
        return self.dim * (2 if self.pool == "meanstd" else 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for keys and results."""
        return dataclasses.asdict(self) | {"layer_names": list(self.layer_names)}


class Encoder:
    """Facts and a callable wave_N -> float32 [L, T, D], at `facts.sample_rate`.

    >>> facts = EncoderFacts("energy", "0" * 64, 100, 10.0, ("energy",), 1)
    >>> energy = Encoder(facts, lambda wave_N: (wave_N.reshape(1, -1, 10) ** 2).mean(-1, keepdims=True))
    >>> energy.frames(np.ones(100)).shape, list(energy.pooled([np.ones(50)]))
    ((1, 10, 1), [array([[1.]], dtype=float32)])
    """

    def __init__(self, facts: EncoderFacts, function: Frames) -> None:
        self.facts, self._function = facts, function

    def frames(self, wave_N: np.ndarray, window_s: float | None = None) -> np.ndarray:
        """All frames [L, T, D] of a recording, on one uniform clock; `window_s` is the input of one pass."""
        return self._function(wave_N)

    def pooled(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """One [L, P] per window."""
        for wave_N in waves:
            pooling = Pooling(self.facts.pool)
            pooling.add(self._function(wave_N))
            yield pooling.result()

    def times(self, n_frames: int) -> np.ndarray:
        """Seconds (float64) of frames on the encoder's clock."""
        return self.facts.first_frame_s + np.arange(n_frames) / self.facts.frame_rate


class MertEncoder(Encoder):
    """A MERT model: each window goes through it in one pass (context "window"), or in windows of its training context
    (context "training"), computed in `dtype`.

    >>> import mert
    >>> encoder = MertEncoder(mert.random_model("nano"))
    >>> next(encoder.pooled([np.ones(24_000, np.float32)])).shape
    (7, 256)
    """

    def __init__(self, embedder: Embedder, context: str = "window", dtype: str = "float32") -> None:
        if context not in ("window", "training"):
            raise ValueError(f'context is "window" or "training", not {context!r}')
        config = embedder.model.config
        canonical = json.dumps(dataclasses.asdict(config), sort_keys=True).encode()
        facts = EncoderFacts(
            embedder.info.name, embedder.sha256, embedder.sample_rate, embedder.frame_rate, embedder.layer_names,
            embedder.dim, "mean", float(embedder.clock.times(0, 1)[0]), config.normalize, context,
            revision=embedder.info.revision, dtype=embedder.settings(dtype=dtype).dtype,
            config=hashlib.sha256(canonical).hexdigest(),
        )  # fmt: skip
        super().__init__(facts, self.frames)
        self.embedder = embedder

    def frames(self, wave_N: np.ndarray, window_s: float | None = None) -> np.ndarray:
        rate_hz, window = self.facts.sample_rate, self._window(window_s)
        return self.embedder.embed(wave_N, sr=rate_hz, window=window, dtype=self.facts.dtype).values

    def pooled(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        pairs = [(wave_N, self.facts.sample_rate) for wave_N in waves]
        options: dict[str, Any] = {"pool": "mean", "window": self._window(None), "dtype": self.facts.dtype}
        size = 4 if self.facts.context == "window" else "auto"
        for features in self.embedder.embed_many(pairs, batch_size=size, **options):
            yield features.values

    def times(self, n_frames: int) -> np.ndarray:
        return self.embedder.clock.times(0, n_frames)

    def _window(self, window_s: float | None) -> float | str | None:
        return None if self.facts.context == "training" else window_s or "whole"


def load_encoder(
    name: str, context: str = "window", device: str = "auto", revision: str | None = None, dtype: str = "float32"
) -> Encoder:
    """A MERT by name or folder, `random-nano`, `random-95m`, `random-330m`, or a hand-made baseline by its name."""
    if name in BASELINES:
        return BASELINES[name]()
    import mert

    if name.startswith("random-"):
        model = mert.random_model(name.removeprefix("random-"))
        return MertEncoder(Embedder(model.model, model.info, model.sha256, device), context, dtype=dtype)
    return MertEncoder(mert.load(name, revision=revision, device=device), context, dtype=dtype)


RATE_HZ, HOP, N_FFT = 24_000, 320, 1024
STFT: dict[str, Any] = {"sr": RATE_HZ, "n_fft": N_FFT, "hop_length": HOP, "verbose": False}
SHORTEST = 16_384  # samples: the lowest CQT kernel must fit twice over; shorter windows are padded with silence
LOG_FLOOR = 1e-5


def baseline(name: str, dim: int, transform: Any, post: Callable[[torch.Tensor], torch.Tensor]) -> Encoder:
    """An encoder from a spectral transform [1, N] -> [1, F, T]."""

    def frames(wave_N: np.ndarray) -> np.ndarray:
        wave = torch.from_numpy(np.ascontiguousarray(wave_N, np.float32))
        n_frames = max(1, round(len(wave) / HOP))
        wave = torch.nn.functional.pad(wave, (0, max(0, SHORTEST - len(wave))))
        with torch.inference_mode():
            values_FT = post(transform(wave[None])[0])
        return values_FT.T[None, :n_frames].numpy()

    identity = hashlib.sha256(f"{name} {RATE_HZ} {HOP} {N_FFT} {LOG_FLOOR} 1".encode()).hexdigest()
    return Encoder(EncoderFacts(name, identity, RATE_HZ, RATE_HZ / HOP, (name,), dim, "meanstd"), frames)


def log_mel() -> Encoder:
    """128 mel bands, logarithmic."""
    mel = spectral().MelSpectrogram(n_mels=128, **STFT)
    return baseline("log-mel", 128, mel, lambda values_FT: torch.log(values_FT + LOG_FLOOR))


def mfcc() -> Encoder:
    """20 mel-frequency cepstral coefficients with their first and second differences."""
    return baseline("mfcc", 60, spectral().MFCC(n_mfcc=20, n_mels=128, **STFT), with_deltas)


def cqt_chroma() -> Encoder:
    """12 pitch classes folded from seven octaves of a constant-Q transform, as shares of each frame."""
    settings = {"sr": RATE_HZ, "hop_length": HOP, "fmin": 32.703, "n_bins": 84, "bins_per_octave": 12}
    return baseline("cqt-chroma", 12, spectral().CQT1992v2(**settings, verbose=False), chroma)


def with_deltas(values_FT: torch.Tensor) -> torch.Tensor:
    """Coefficients, and their slopes over five frames, twice."""
    first = slope(values_FT)
    return torch.cat([values_FT, first, slope(first)])


def slope(values_FT: torch.Tensor) -> torch.Tensor:
    """Least-squares slope over five frames.

    >>> slope(torch.arange(6.0)[None]).round(decimals=3)[0, 2:4]
    tensor([1., 1.])
    """
    padded = torch.nn.functional.pad(values_FT[None], (2, 2), mode="replicate")[0]
    n = values_FT.shape[1]
    return sum(k * padded[:, 2 + k : 2 + k + n] for k in (-2, -1, 1, 2)) / 10  # type: ignore[return-value]


def chroma(values_FT: torch.Tensor) -> torch.Tensor:
    """Octaves summed, each frame divided by its sum."""
    folded_FT = values_FT.reshape(7, 12, -1).sum(0)
    return folded_FT / (folded_FT.sum(0, keepdim=True) + LOG_FLOOR)


def spectral() -> Any:
    """nnAudio's transforms; MertError where the extra is not installed."""
    return need("nnAudio.features", "probe", "hand-made features")


BASELINES: dict[str, Callable[[], Encoder]] = {"log-mel": log_mel, "mfcc": mfcc, "cqt-chroma": cqt_chroma}
