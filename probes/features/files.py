"""Features that `mert embed` wrote, as probes read them: all embedded in one way, pooled or frame by frame.

Shapes: R rows (recordings, or frames), L layers, T frames, D model width, P width of a row (D, or 2 D).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mert.embedding.embedder import free_memory
from mert.embedding.features import Features, Provenance, differences
from mert.errors import MertError, OutputError

AGAIN = "embed all recordings again in one way"


class FeatureFiles:
    """Features of many recordings in memory: a PooledStore for clip probes, a FrameStore for frame-wise ones.

    A slice of layers selects those that are summed: all but `embed`. Frames are pooled unless `framewise`.

    >>> from dataclasses import asdict
    >>> meta = asdict(Provenance("0", 74, 74, True, "float32")) | {"model": "m", "pool": "mean"}
    >>> one = Features(np.ones((2, 3), np.float32), None, ("embed", "layer01"), meta)
    >>> files = FeatureFiles({"a.wav": one, "b.wav": one})
    >>> files.windows(np.array([1]), 0).shape, files.rows(["b.wav", "a.wav"])[0].tolist()
    ((1, 3), [1, 0])
    """

    def __init__(self, features_by_id: dict[str, Features], framewise: bool = False) -> None:
        first_name, first = next(iter(features_by_id.items()))
        self.meta, self.layers, self.framewise = first.meta, first.layers, framewise
        self.pool = None if framewise else first.meta.get("pool") or "mean"
        rows, self._first, self._times = [], {}, {}
        n = 0
        for name, features in features_by_id.items():
            check_meta(name, features)
            check_alike(name, features, first_name, first)
            values_RLP = rows_of(name, features, framewise)
            self._first[name], self._times[name] = (n, n + len(values_RLP)), features.times
            rows.append(values_RLP)
            n += len(values_RLP)
        self._values = np.concatenate(rows)
        self._summed = [i for i, layer in enumerate(self.layers) if layer != "embed"]

    @classmethod
    def load(cls, paths: dict[str, Path], framewise: bool = False) -> FeatureFiles:
        """Read features from the disk; OutputError if they do not fit into memory."""
        size = sum(path.stat().st_size for path in paths.values())
        if framewise and 2 * size > free_memory():
            reason = f"{size / 2**30:.1f} GiB of frames do not fit into memory"
            raise OutputError(next(iter(paths.values())).parent, reason, "embed fewer layers: --layers layer07")
        loaded = {}
        for name, path in paths.items():
            features = Features.load(path)
            if features.times is not None and not framewise:
                check_finite(str(path), features.values)
                features = features.pool("mean")
            loaded[name] = features
        return cls(loaded, framewise)

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers, number of the recording each belongs to), for recordings in this order."""
        spans = [self._first[name] for name in ids]
        rows = [np.arange(first, end) for first, end in spans]
        owners = np.repeat(np.arange(len(spans)), [end - first for first, end in spans])
        return np.concatenate(rows) if rows else np.zeros(0, int), owners

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        """[n, P] of one layer, float32, or [n, L, P] of all that are summed."""
        if isinstance(layer, slice):
            return self._values[rows][:, self._summed]
        return self._values[rows, layer].astype(np.float32)

    def frames(self, clip_id: str, layer: int | slice) -> np.ndarray:
        """float32 [T, D] of one layer, or [L, T, D] of all that are summed."""
        first, end = self._first[clip_id]
        if isinstance(layer, slice):
            return self._values[first:end, self._summed].astype(np.float32).transpose(1, 0, 2)
        return self._values[first:end, layer].astype(np.float32)

    def times(self, clip_id: str) -> np.ndarray:
        """Seconds of a recording's frames."""
        times_T = self._times[clip_id]
        if times_T is None:
            raise ValueError(f"{clip_id} is pooled")
        return times_T


def check_meta(name: str, features: Features) -> None:
    """OutputError for features without their provenance: a head on them could never be used."""
    lacking = Provenance.missing(features.meta) + [fact for fact in ("model", "pool") if fact not in features.meta]
    if lacking:
        raise OutputError(name, f"does not say its {', '.join(lacking)}", "embed it with `mert embed`")


def check_alike(name: str, features: Features, other_name: str, other: Features) -> None:
    """OutputError for a mixture of models, windows, layers or poolings."""
    meta, wanted = (each.meta | {"layers": list(each.layers)} for each in (features, other))
    differing = differences(features.provenance, other.provenance)
    for fact in (*differing, *(fact for fact in ("pool", "layers") if meta[fact] != wanted[fact])):
        raise OutputError(name, f"{fact} is {meta[fact]}, and {wanted[fact]} in {other_name}", AGAIN)


def rows_of(name: str, features: Features, framewise: bool) -> np.ndarray:
    """[R, L, P] of one recording: its frames, or one row."""
    check_finite(name, features.values)
    if not framewise:
        pooled = features if features.times is None else features.pool("mean")
        return pooled.values[None]
    if features.times is None:
        raise OutputError(name, "is pooled, and events need frames", "embed again without --pool")
    if len(features.times) < 2:
        raise OutputError(name, "has a single frame", "leave it out")
    return features.values.transpose(1, 0, 2)


def check_finite(name: str, values: np.ndarray) -> None:
    """MertError for NaN and infinity."""
    if not np.isfinite(values).all():
        raise MertError(name, "features are NaN or infinite", "embed the recording again, and check it")
