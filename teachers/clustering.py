"""The shared parts of fitted teachers: a bounded sample of a corpus, k-means by scikit-learn, and nearest centres.

Shapes: N samples or rows, T frames, F features, C classes, K codebooks.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from teachers.base import TeacherError, require, whole_float32

CPU = torch.device("cpu")
PIECE_S = 60  # longer recordings are read in pieces of this length


def untracked(items: Iterable[Any], description: str = "") -> Iterable[Any]:
    """The items as they are."""
    return items


@dataclass(frozen=True)
class Fitting:
    """How a fit runs: on which device, and with what around its loops, such as the `track` of a rich progress bar.

    What is fitted depends on neither, but for the rounding of the device.
    """

    device: torch.device = CPU
    track: Callable[..., Iterable[Any]] = untracked

    def extractor(self, extract: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The function of a wave, computed on the device as targets are; its result is on the CPU."""

        def extracted(wave_1N: Tensor) -> Tensor:
            with whole_float32(self.device):
                return extract(wave_1N.to(self.device)).cpu()

        return extracted


DEFAULT = Fitting()


class Reservoir:
    """A uniform sample of at most `size` rows of a stream of any length, the same for the same seed and stream.

    Every row draws a random key and the smallest keys stay, so memory is bounded by 2 `size` rows and one addition.

    >>> sample = Reservoir(3, seed=0)
    >>> for start in range(0, 100, 10): sample.add(np.arange(start, start + 10)[:, None])
    >>> sample.rows().shape, sample.n_seen
    ((3, 1), 100)
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.n_seen = size, 0
        self._random = np.random.default_rng(seed)
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._held = 0

    def add(self, rows_NF: np.ndarray) -> None:
        """Offer rows; all additions must have the same F."""
        self._parts.append((self._random.random(len(rows_NF)), rows_NF))
        self._held += len(rows_NF)
        self.n_seen += len(rows_NF)
        if self._held > 2 * self.size:
            self._shrink()

    def _shrink(self) -> None:
        keys, rows = map(np.concatenate, zip(*self._parts, strict=True))
        kept = np.argsort(keys, kind="stable")[: self.size]
        self._parts, self._held = [(keys[kept], rows[kept])], len(kept)

    def rows(self) -> np.ndarray:
        """The sample, in random order; a ValueError if nothing was added."""
        self._shrink()
        return self._parts[0][1]


def pieces(waves: Iterable[np.ndarray], rate_hz: int, source: str) -> Iterable[Tensor]:
    """The corpus as clips [1, N] of bounded length; TeacherError for anything that is not mono samples."""
    for i, wave in enumerate(waves):
        wave_N = np.asarray(wave)
        if wave_N.ndim != 1 or wave_N.dtype.kind != "f" or not np.isfinite(wave_N).all():
            reason = f"recording {i} is {wave_N.dtype} {list(wave_N.shape)}, or not finite"
            raise TeacherError(source, reason, "give mono float32 arrays at the teacher's sample rate")
        for start in range(0, len(wave_N), PIECE_S * rate_hz):
            yield torch.from_numpy(wave_N[start : start + PIECE_S * rate_hz].astype(np.float32))[None]


def sample_rows(
    waves: Iterable[np.ndarray], extract: Callable[[Tensor], Tensor], rate_hz: int, size: int, seed: int, source: str,
    rows: str = "frames", remedy: str = "give at least one recording",
) -> np.ndarray:  # fmt: skip
    """At most `size` frames [N, F] of a corpus, or other `rows`, drawn uniformly; TeacherError if it has none."""
    reservoir = Reservoir(size, seed)
    for wave_1N in pieces(waves, rate_hz, source):
        reservoir.add(extract(wave_1N)[0].numpy())
    if not reservoir.n_seen:
        raise TeacherError(source, f"the corpus holds 0 {rows}", remedy)
    return reservoir.rows()


def standard(rows_NF: np.ndarray, alike: bool = True) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [F] of the sample, the latter not below 0.001.

    Features that are `alike` (bands of one spectrum) share one deviation: a band that hardly varies in this corpus
    would otherwise dominate the others when it varies in another.

    >>> standard(np.array([[0.0, 10.0], [0.0, 14.0]]))[1].tolist(), standard(np.eye(2), alike=False)[1].tolist()
    ([1.4142135381698608, 1.4142135381698608], [0.5, 0.5])
    """
    mean_F, var_F = rows_NF.mean(0, dtype=np.float64), rows_NF.var(0, dtype=np.float64)
    std_F = np.maximum(np.sqrt(np.full_like(var_F, var_F.mean()) if alike else var_F), 1e-3)
    return torch.from_numpy(mean_F).float(), torch.from_numpy(std_F).float()


def kmeans(rows_NF: np.ndarray, n_classes: int, seed: int, source: str) -> Tensor:
    """Centres [C, F] by scikit-learn's MiniBatchKMeans; TeacherError without it, or for fewer distinct rows than C."""
    cluster = require("sklearn.cluster", source, "train")
    if (n_distinct := len({row.tobytes() for row in rows_NF})) < n_classes:
        reason = f"{n_distinct} distinct frames in a sample of {len(rows_NF)} are too few for {n_classes} classes"
        raise TeacherError(source, reason, "give more audio, a larger sample_frames or a smaller n_classes")
    model = cluster.MiniBatchKMeans(
        n_classes, batch_size=max(4096, n_classes), max_iter=50, n_init=1, random_state=seed, compute_labels=False
    )
    return torch.from_numpy(model.fit(rows_NF).cluster_centers_.astype(np.float32))


def residual_kmeans(
    rows_NF: np.ndarray, n_codebooks: int, n_classes: int, seed: int, source: str, how: Fitting = DEFAULT
) -> Tensor:
    """Codebooks [K, C, F], each fitted to the residual of the ones before it."""
    rest_NF, codebooks = torch.from_numpy(rows_NF), []
    for k in how.track(range(n_codebooks), description="codebooks"):
        centres_CF = kmeans(rest_NF.numpy(), n_classes, seed + k, source)
        rest_NF = rest_NF - centres_CF[nearest(rest_NF, centres_CF)]
        codebooks.append(centres_CF)
    return torch.stack(codebooks)


def nearest(x_TF: Tensor, centres_CF: Tensor) -> Tensor:
    """Index [T] of the nearest centre to each row (Euclidean).

    >>> nearest(torch.tensor([[0.1], [0.9]]), torch.tensor([[0.0], [1.0]])).tolist()
    [0, 1]
    """
    return (centres_CF.square().sum(1) - 2 * x_TF @ centres_CF.T).argmin(1)


def residual_codes(x_TF: Tensor, codebooks_KCF: Tensor) -> Tensor:
    """Codes [K, T] of a residual quantiser."""
    codes = []
    for centres_CF in codebooks_KCF:
        codes.append(nearest(x_TF, centres_CF))
        x_TF = x_TF - centres_CF[codes[-1]]
    return torch.stack(codes)
