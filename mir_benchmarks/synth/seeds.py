"""Random generators: one per (purpose, seed, index, aspect, number), and nothing else.

Purposes keep training music and benchmark music apart by construction: the purpose is a word of the entropy itself,
the entropy always has the same six words, and numpy's SeedSequence mixes all of them.
"""

from collections.abc import Callable, Sequence

import numpy as np

Seed = tuple[int, int, int]  # purpose, seed, index
Draw = Callable[[float, float], float]  # a number between two

MAGIC = 0x4D455254
PURPOSES = {"single": 0, "train": 1, "bench": 2, "instrument": 3, "kit": 4, "singer": 5,
            "sampled train": 6, "sampled valid": 7, "sampled test": 8}  # fmt: skip
ASPECTS = ("plan", "harmony", "parts", "playing", "drums", "effects", "room", "hiss", "breath", "patch",
           "band", "hands", "piece", "borrowed")  # fmt: skip


def seed_of(seed: int | Sequence[int]) -> Seed:
    """A clip's three words; a bare integer is a single clip.

    >>> seed_of(7)
    (0, 7, 0)
    """
    words = (PURPOSES["single"], int(seed), 0) if isinstance(seed, int | np.integer) else tuple(map(int, seed))
    if len(words) != 3 or not all(0 <= word < 2**32 for word in words):
        raise ValueError(f"a seed is an integer, or (purpose, seed, index), each in [0, 2**32): got {seed!r}")
    return words[0], words[1], words[2]


def stream(seed: int | Sequence[int], aspect: str, number: int = 0) -> np.random.Generator:
    """The generator of one aspect of a clip: changing how one aspect draws leaves all others as they were."""
    entropy = [MAGIC, *seed_of(seed), ASPECTS.index(aspect), number]
    return np.random.default_rng(np.random.SeedSequence(entropy))


def draw_patch(purpose: str, family: int, index: int) -> Draw:
    """The function that draws the parameters of an instrument, a kit or a singer, from its own stream."""
    rng = stream((PURPOSES[purpose], family, index), "patch")
    return lambda low, high: float(rng.uniform(low, high))
