"""Features: the hidden states of one recording with their times, layers and provenance.

Shapes: L layers, T frames, D model width.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mert.embedding.npz import read_npz, write_npz
from mert.errors import OutputError

if TYPE_CHECKING:
    import torch

Pool = Literal["mean", "meanstd"] | None


@dataclass(frozen=True)
class Provenance:
    """How features were extracted. Those of two recordings are comparable only where all of this agrees.

    Facts that older versions did not record are None.
    """

    weights_sha256: str
    window_frames: int | None
    hop_frames: int | None
    normalize: bool
    dtype: str
    resampler: str | None = None
    sample_rate: int | None = None

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Provenance:
        """The provenance in a `meta`."""
        return cls(*(meta.get(fact.name) for fact in fields(cls)))  # type: ignore[arg-type]

    @classmethod
    def missing(cls, meta: Mapping[str, Any]) -> list[str]:
        """Facts that a `meta` of any version records, and this one does not."""
        return [fact.name for fact in fields(cls) if fact.default is MISSING and fact.name not in meta]


def differences(a: Provenance, b: Provenance) -> list[str]:
    """Names of the facts in which two provenances differ; facts that one did not record are passed over.

    >>> from dataclasses import replace
    >>> a = Provenance("0", 374, 374, True, "float32", "soxr HQ", 24_000)
    >>> differences(a, replace(a, window_frames=74, dtype="int8", resampler=None))
    ['window_frames', 'dtype']
    """
    pairs = {fact.name: (getattr(a, fact.name), getattr(b, fact.name)) for fact in fields(Provenance)}
    later = [fact.name for fact in fields(Provenance) if fact.default is None and None in pairs[fact.name]]
    return [name for name, (left, right) in pairs.items() if left != right and name not in later]


def header(layers: tuple[str, ...], meta: dict[str, Any], times_T: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The arrays of a features file beside `values`: times (unless pooled), layers and meta (JSON)."""
    times = {} if times_T is None else {"times": times_T}
    return times | {"layers": np.array(layers), "meta": np.array(json.dumps(meta))}


@dataclass(repr=False)
class Features:
    """Hidden states of one recording: `values` [L, T, D] at `times` [T], or [L, D] (`meanstd`: [L, 2 D]) pooled.

    `times` are seconds (float64), the centres of the frames' receptive fields; None once pooled. `layers` are names
    (`embed`, `layer01`, ...); `meta` records the model, window and precision.

    >>> features = Features(np.zeros((2, 3, 4), np.float32), np.arange(3.0), ("embed", "layer01"))
    >>> features.layer("layer01").shape, features.pool("mean").values.shape, features.between(0.5, 2.0).times
    ((3, 4), (2, 4), array([1.]))
    """

    values: np.ndarray
    times: np.ndarray | None
    layers: tuple[str, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def provenance(self) -> Provenance:
        """What must agree for these features to be comparable with others."""
        return Provenance.of(self.meta)

    def __repr__(self) -> str:
        what = "pooled to" if self.times is None else f"{self.values.shape[1]} frames of"
        held = f"{self.layers[0]} to {self.layers[-1]}" if len(self.layers) > 1 else self.layers[0]
        return f"Features({self.meta.get('model')}: {held}, {what} {self.values.shape[-1]} values)"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype, copy=copy)

    def to_torch(self) -> torch.Tensor:
        """The values as a tensor that shares their memory."""
        import torch

        return torch.from_numpy(self.values)

    def between(self, start_s: float, end_s: float) -> Features:
        """The frames whose centres lie in [start_s, end_s); ValueError for pooled features."""
        if self.times is None:
            raise ValueError("pooled features have no time axis: embed with pool=None")
        first, end = np.searchsorted(self.times, (start_s, end_s))
        return Features(self.values[:, first:end], self.times[first:end], self.layers, self.meta)

    def layer(self, name: str | int) -> np.ndarray:
        """One layer by its name or its number in the model (0 is `embed`, 5 is `layer05`; -1 is the last one held).

        KeyError names the layers held.
        """
        if not isinstance(name, str):
            name = self.layers[name] if -len(self.layers) <= name < 0 else f"layer{name:02}" if name else "embed"
        if name not in self.layers:
            raise KeyError(f"no layer {name!r} among {', '.join(self.layers)}")
        return self.values[self.layers.index(name)]

    def pool(self, how: Literal["mean", "meanstd"]) -> Features:
        """Mean over time, or mean and population standard deviation side by side, computed in float64."""
        if self.times is None:
            raise ValueError(f"already pooled ({self.meta.get('pool')})")
        pooled = Pooling(how)
        pooled.add(self.values)
        return Features(pooled.result(), None, self.layers, self.meta | {"pool": how})

    def save(self, path: str | Path) -> None:
        """Write `.npz` with keys values, times (unless pooled), layers and meta (JSON); whole or not at all."""
        write_npz(path, {"values": self.values} | header(self.layers, self.meta, self.times))

    @classmethod
    def load(cls, path: str | Path) -> Features:
        """The inverse of `save`; OutputError for files that are damaged or were not written by it."""
        arrays = read_npz(path, required=("values", "layers", "meta"))
        layers = _read_layers(path, arrays["layers"])
        if not arrays["values"].size:
            raise OutputError(path, "it holds no values", "embed the recording again")
        return cls(arrays["values"], arrays.get("times"), layers, _read_meta(path, arrays["meta"]))

    @staticmethod
    def load_meta(path: str | Path) -> dict[str, Any]:
        """Provenance and layers (key `layers`) of a saved file, without its values."""
        arrays = read_npz(path, required=("values", "layers", "meta"), leave_out=("values", "times"))
        return _read_meta(path, arrays["meta"]) | {"layers": list(_read_layers(path, arrays["layers"]))}


def _read_layers(path: str | Path, names: np.ndarray) -> tuple[str, ...]:
    if names.ndim != 1 or not names.size:
        raise OutputError(path, "its layers are not a list of names", "embed the recording again")
    return tuple(map(str, names))


def _read_meta(path: str | Path, text: np.ndarray) -> dict[str, Any]:
    try:
        return dict(json.loads(str(text)))
    except (ValueError, TypeError, RecursionError) as error:
        raise OutputError(path, f"its meta is not a JSON object ({error})", "embed the recording again") from None


class Pooling:
    """Mean and deviation over frames that arrive in parts [L, T, D], merged exactly (Chan et al. 1979)."""

    def __init__(self, how: Literal["mean", "meanstd"]) -> None:
        if how not in ("mean", "meanstd"):
            raise ValueError(f'pool is None, "mean" or "meanstd", not {how!r}')
        self.how = how
        self.count = 0
        self._mean: np.ndarray | float = 0.0
        self._square: np.ndarray | float = 0.0

    def add(self, values_LTD: np.ndarray) -> None:
        values = values_LTD.astype(np.float64)
        mean_LD = values.mean(axis=1)
        self._merge(values.shape[1], mean_LD, ((values - mean_LD[:, None]) ** 2).sum(axis=1))

    def joined(self, other: Pooling) -> Pooling:
        """The pooling of the frames of both."""
        joined = Pooling(self.how)
        for part in (self, other):
            joined._merge(part.count, part._mean, part._square)
        return joined

    def _merge(self, count: int, mean_LD: Any, square_LD: Any) -> None:
        step, total = mean_LD - self._mean, self.count + count
        self._square = self._square + square_LD + step**2 * (self.count * count / total)
        self._mean = self._mean + step * (count / total)
        self.count = total

    def result(self) -> np.ndarray:
        """float32 [L, D] for mean, [L, 2 D] for meanstd."""
        mean_LD = np.asarray(self._mean)
        if self.how == "mean":
            return mean_LD.astype(np.float32)
        return np.concatenate([mean_LD, np.sqrt(self._square / self.count)], axis=-1).astype(np.float32)
