"""Plans of the synthetic suite: a corpus, its recordings and the scores that are composed for them."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from mir_benchmarks.synth.compose import compose
from mir_benchmarks.synth.corpus import INSTRUMENTS, SINGERS
from mir_benchmarks.synth.files import encode
from mir_benchmarks.synth.render import mix, render
from mir_benchmarks.synth.score import Score
from mir_benchmarks.synth.seeds import PURPOSES, Seed, stream

CORPORA = ("gtzan", "giantsteps", "magnatagatune", "emomusic", "nsynth", "vocalset", "mtg-jamendo", "musdb18")
ATTEMPTS = 256


class RecordingPlan(Protocol):
    """A recording that a worker can render without any other information."""

    @property
    def seconds(self) -> float: ...

    @property
    def paths(self) -> tuple[str, ...]: ...  # of its files, relative to the corpus

    def encode(self) -> dict[str, bytes]: ...  # by path


@dataclass(frozen=True)
class CorpusPlan:
    """A corpus before it is rendered: recordings, annotation files by path, and the items of each task by split."""

    recordings: tuple[RecordingPlan, ...]
    texts: dict[str, str]
    counts: dict[str, dict[str, int]]


class OneFile:
    """A RecordingPlan whose only file, at `path`, holds the samples of `wave`."""

    path: str
    rate_hz: int

    @property
    def paths(self) -> tuple[str, ...]:
        return (self.path,)

    @abstractmethod
    def wave(self) -> np.ndarray:
        """The samples, float32 [N]."""

    def encode(self) -> dict[str, bytes]:
        return {self.path: encode(self.wave(), self.rate_hz, self.path.rpartition(".")[2])}


@dataclass(frozen=True)
class PlannedClip(OneFile):
    """A mono recording of one score."""

    path: str
    score: Score = field(repr=False)
    rate_hz: int

    @property
    def seconds(self) -> float:
        return self.score.seconds

    def wave(self) -> np.ndarray:
        return mix(render(self.score, self.rate_hz), self.score, self.rate_hz)


def bench_seed(corpus: str, seed: int, item: int, attempt: int = 0) -> Seed:
    """The seed of a recording: unique in the suite, and different from all seeds of training music.

    >>> bench_seed("giantsteps", 0, 2, attempt=1)
    (2, 0, 268435969)
    """
    if not (0 <= item < 2**20 and 0 <= attempt < ATTEMPTS):
        raise ValueError(f"no seed for item {item}, attempt {attempt}")
    return PURPOSES["bench"], seed, (CORPORA.index(corpus) << 28) + item * ATTEMPTS + attempt


def corpus_rng(corpus: str, seed: int) -> np.random.Generator:
    """The generator for what is drawn once per corpus: names, keys, opinions."""
    return stream(bench_seed(corpus, seed, 2**20 - 1, ATTEMPTS - 1), "plan")


def first_score(
    corpus: str, seed: int, item: int, seconds: float, wanted: Callable[[Score], bool] | None = None, **constraints: Any
) -> Score:
    """The first score of an item that satisfies `wanted`; `constraints` are those of `compose`."""
    for attempt in range(ATTEMPTS):
        words = bench_seed(corpus, seed, item, attempt)
        score = compose(words, seconds, instruments=INSTRUMENTS["bench"], singers=SINGERS["bench"], **constraints)
        if wanted is None or wanted(score):
            return score
    raise ValueError(f"{corpus} item {item}: nothing in {ATTEMPTS} scores is as wanted with {constraints}")


def table(rows: Iterable[Iterable[object]], newline: str = "\n", separator: str = "\t") -> str:
    """Rows of cells as text.

    >>> table([("a", 1), ("b", 2)])
    'a\\t1\\nb\\t2\\n'
    """
    return "".join(separator.join(map(str, row)) + newline for row in rows)
