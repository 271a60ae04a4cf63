"""Encoders: any callable wave -> [L, T, D] with its facts.

Shapes: N samples, L layers, T frames, D width of a frame, P width of a pooled window (D, or 2 D).
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mert.embedding.features import Pooling
from mert.errors import UsageError
from mert.models.frontend import golden_wave
from probes.encoders.identity import fingerprint

Frames = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class EncoderFacts:
    """Identity and clock of an encoder: `name` and `sha256`, `first_frame_s` and `frame_rate`.

    `sha256` is that of a file of weights; left out, it is `function`, the digest that `Encoder.identify` computes of a
    Python function. `pool` is how a window becomes one vector; `context` is the input of one pass of the encoder;
    `config` is the SHA-256 of a model's configuration, which weights do not determine: heads, norms, the training
    window. UsageError for a `sha256` that is none, and for facts that are not stated.
    """

    name: str
    sha256: str = ""
    sample_rate: int = 0
    frame_rate: float = 0.0
    layer_names: tuple[str, ...] = ()
    dim: int = 0
    pool: Literal["mean", "meanstd"] = "mean"
    first_frame_s: float = 0.0
    normalize: bool = False
    context: str = "window"
    dtype: str = "float32"
    revision: str | None = None
    config: str = ""
    function: str = ""

    def __post_init__(self) -> None:
        if self.sha256 and (not re.fullmatch("[0-9a-f]{64}", self.sha256) or not self.sha256.strip("0")):
            reason = f"sha256 {self.sha256!r} is not the SHA-256 of any weights"
            raise UsageError(f"EncoderFacts of {self.name}", reason, "leave it out: it is computed of the function")
        for fact in ("sample_rate", "frame_rate", "layer_names", "dim"):
            if not getattr(self, fact):
                raise UsageError(f"EncoderFacts of {self.name}", f"{fact} is not stated", f"give {fact}=")

    @property
    def width(self) -> int:
        """Width of a pooled window in each layer."""
        return self.dim * (2 if self.pool == "meanstd" else 1)

    def as_dict(self) -> dict[str, Any]:
        """Plain containers, for keys and results."""
        facts = dataclasses.asdict(self) | {"layer_names": list(self.layer_names)}
        return {name: value for name, value in facts.items() if name != "function" or value}


def as_array(values: Any) -> np.ndarray:
    """What an encoder gives as an array: a tensor of torch may be on a GPU, in bfloat16, or have gradients."""
    return values.detach().cpu().float().numpy() if hasattr(values, "detach") else np.asarray(values)


class Encoder:
    """Facts and a callable wave_N -> float32 [L, T, D], an array or a tensor of torch, at `facts.sample_rate`.

    >>> facts = EncoderFacts("energy", sample_rate=100, frame_rate=10.0, layer_names=("energy",), dim=1)
    >>> energy = Encoder(facts, lambda wave_N: (wave_N.reshape(1, -1, 10) ** 2).mean(-1, keepdims=True))
    >>> energy.frames(np.ones(100)).shape, list(energy.pooled([np.ones(50)]))
    ((1, 10, 1), [array([[1.]], dtype=float32)])
    """

    def __init__(self, facts: EncoderFacts, function: Frames) -> None:
        self.facts, self._function = facts, function

    def identify(self) -> EncoderFacts:
        """The facts with the identity of the function as it is now, which features and results are stored under.

        It covers what the function computes of a fixed wave, and all that its code can reach: a change that the one
        does not show (another branch, another file of weights) is likely to show in the other. Of a function that
        changes what it reaches whenever it is called (counters, caches), only the code is taken, not the data.
        """
        wave_N, methods = golden_wave(self.facts.sample_rate).numpy(), (self._function, *self._overridden())
        computed = self._features(wave_N)
        reached = fingerprint(methods)  # not before the first call, which may load what is needed
        self._features(wave_N * np.random.default_rng().random(len(wave_N), np.float32))  # a wave that is in no cache
        code = reached if reached == fingerprint(methods) else fingerprint(methods, data=False)
        function = hashlib.sha256(computed + code.encode()).hexdigest()
        stated = "" if self.facts.sha256 == self.facts.function else self.facts.sha256
        self.facts = dataclasses.replace(self.facts, function=function, sha256=stated or function)
        return self.facts

    def frames(self, wave_N: np.ndarray, window_s: float | None = None) -> np.ndarray:
        """All frames [L, T, D] of a recording, on one uniform clock; `window_s` is the input of one pass."""
        return as_array(self._function(wave_N))

    def pooled(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """One [L, P] per window."""
        for wave_N in waves:
            pooling = Pooling(self.facts.pool)
            pooling.add(as_array(self._function(wave_N)))
            yield pooling.result()

    def times(self, n_frames: int) -> np.ndarray:
        """Seconds (float64) of frames on the encoder's clock."""
        return self.facts.first_frame_s + np.arange(n_frames) / self.facts.frame_rate

    def _features(self, wave_N: np.ndarray) -> bytes:
        """Features of a wave, or the kind of error where the function does not take it."""
        try:
            return np.ascontiguousarray(self.frames(wave_N), np.float32).tobytes()
        except Exception as error:  # of a stranger's function, any
            return type(error).__name__.encode()

    def _overridden(self) -> list[Any]:
        """Methods of subclasses."""
        names = ("frames", "pooled", "times")
        return [getattr(type(self), name) for name in names if getattr(type(self), name) is not getattr(Encoder, name)]
