"""Synthetic music as a corpus: any clip by its index, the same in every order, process and thread."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mir_benchmarks.synth.compose import compose
from mir_benchmarks.synth.render import mix, render
from mir_benchmarks.synth.score import Score
from mir_benchmarks.synth.seeds import PURPOSES

# Training and benchmark share no instrument, drum kit or singer, as in NSynth.
INSTRUMENTS = {"train": (0, 64), "bench": (64, 96)}
SINGERS = {"train": (0, 20), "bench": (20, 40)}


@dataclass(frozen=True)
class SynthCorpus:
    """`n_items` clips of `seconds` at `rate_hz`. Purposes "train" and "bench" share no seed, instrument, kit or singer.

    >>> corpus = SynthCorpus(n_items=2, seconds=1.0)
    >>> len(corpus), corpus.read(1).shape, corpus.score(1).seed
    (2, (24000,), (1, 0, 1))
    """

    seed: int = 0
    n_items: int = 36_000
    seconds: float = 10.0
    rate_hz: int = 24_000
    purpose: str = "train"

    def __post_init__(self) -> None:
        if self.purpose not in INSTRUMENTS:
            raise ValueError(f'purpose is "train" or "bench", not {self.purpose!r}')
        if not (0 <= self.seed < 2**32 and 0 < self.n_items <= 2**32 and self.rate_hz >= 8_000):
            raise ValueError(f"seed and n_items lie in [0, 2**32], rate_hz is at least 8000: got {self}")

    def __len__(self) -> int:
        return self.n_items

    def score(self, index: int) -> Score:
        """The score of clip `index`."""
        if not 0 <= index < self.n_items:
            raise IndexError(f"clip {index} of {self.n_items}")
        seed = (PURPOSES[self.purpose], self.seed, int(index))
        return compose(seed, self.seconds, instruments=INSTRUMENTS[self.purpose], singers=SINGERS[self.purpose])

    def row(self, index: int) -> dict[str, Any]:
        """What a manifest says about clip `index`."""
        return self.score(index).as_dict()

    def read(self, index: int) -> np.ndarray:
        """Clip `index`, float32 [N]."""
        score = self.score(index)
        return mix(render(score, self.rate_hz), score, self.rate_hz)


def corpus(**options: int | float | str) -> SynthCorpus:
    """The corpus of the entry-point group `mert.corpora`; the options are those of SynthCorpus."""
    return SynthCorpus(**options)  # type: ignore[arg-type]
