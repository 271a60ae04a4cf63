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
from probes.features.stores import FrameStore, PooledStore, rows_of_spans


class FeatureFiles(PooledStore, FrameStore):
    """Features of many recordings in memory, for clip probes or, if `framewise`, for frame-wise ones.

    A slice of layers selects those that are summed: all but `embed`.
    """

    def __init__(self, features_by_id: dict[str, Features], framewise: bool = False) -> None:
        first_name, first = next(iter(features_by_id.items()))
        self.meta, self.layers, self.framewise = first.meta, first.layers, framewise
        self.pool = None if framewise else first.meta.get("pool") or "mean"
        rows, self._spans, self._times, n = [], {}, {}, 0
        self.silent = {name for name, features in features_by_id.items() if features.meta.get("silent")}
        for name, features in features_by_id.items():
            check_meta(name, features)
            check_alike(name, features, first_name, first)
            values_RLP = rows_of(name, features, framewise)
            self._spans[name], self._times[name] = (n, n + len(values_RLP)), features.times
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
        loaded = ((name, path, Features.load(path)) for name, path in paths.items())
        return cls({name: features if framewise else pooled(str(path), features) for name, path, features in loaded},
                   framewise)  # fmt: skip

    def means(self) -> tuple[list[str], np.ndarray]:
        """Names of the recordings that are not silent, and their means over rows in the last layer, float64 [K, P]."""
        names = [name for name in self._spans if name not in self.silent]
        means = [self._values[slice(*self._spans[name]), -1].mean(axis=0, dtype=np.float64) for name in names]
        return names, np.stack(means) if means else np.zeros((0, 0))

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        return rows_of_spans([self._spans[name] for name in ids])

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        """[n, P] of one layer, float32, or [n, L, P] of all that are summed."""
        if isinstance(layer, slice):
            return self._values[rows][:, self._summed]
        return self._values[rows, layer].astype(np.float32)

    def frames(self, clip_id: str, layer: int | slice) -> np.ndarray:
        chosen = self._summed if isinstance(layer, slice) else layer
        values = self._values[slice(*self._spans[clip_id]), chosen].astype(np.float32)
        return values if values.ndim == 2 else values.transpose(1, 0, 2)

    def times(self, clip_id: str) -> np.ndarray:
        if (times_T := self._times[clip_id]) is None:
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
        raise OutputError(name, f"{fact} is {meta[fact]}, and {wanted[fact]} in {other_name}",
                          "embed all recordings again in one way")  # fmt: skip


def rows_of(name: str, features: Features, framewise: bool) -> np.ndarray:
    """[R, L, P] of one recording: its frames, or one row."""
    if not framewise:
        return pooled(name, features).values[None]
    check_finite(name, features.values)
    if features.times is None:
        raise OutputError(name, "is pooled, and events need frames", "embed again without --pool")
    if len(features.times) < 2:
        raise OutputError(name, "has a single frame", "leave it out")
    return features.values.transpose(1, 0, 2)


def pooled(name: str, features: Features) -> Features:
    """The mean over the frames of a recording; MertError for NaN and infinity."""
    check_finite(name, features.values)
    return features if features.times is None else features.pool("mean")


def check_finite(name: str, values: np.ndarray) -> None:
    """MertError for NaN and infinity."""
    if not np.isfinite(values).all():
        raise MertError(name, "features are NaN or infinite", "embed the recording again, and check it")
