"""What groups of clips hold, as pure functions of (seed, step): which recordings, cut where, how masked.

Shapes: B clips of a group, N samples, T frames, R recordings.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise

import numpy as np

from mert.embedding.windows import Clock
from mert.errors import UsageError
from mert.train.augmentation import samples_at
from mert.train.corpus.base import Corpus
from mert.train.masking import span_mask
from mert.train.recipe import Recipe

# Purposes of random streams.
CROP, MASK, MIX, DROPOUT, LAYER_DROP, ORDER, VALIDATION, REPLACEMENT, AUGMENT, SPEED = range(10)


def stream(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    return np.random.default_rng(np.random.SeedSequence(key))


def torch_seed(*key: int) -> int:
    """A seed for torch that depends on the key alone."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True)
class Cut:
    """A group of clips before it is read: recordings, first frames, speeds (1: as it is), and samples of each clip."""

    recordings: tuple[int, ...]
    frames: tuple[int, ...]
    speeds: tuple[float, ...]
    n_samples: int


class Draw:
    """What groups hold, without their audio: recordings, crops and masks.

    Recordings of `held_out` are for validation; each epoch goes through the others once, in its own order, unless the
    corpus is a mixture with weights, of which each part then has its own epochs. A group is as long as its shortest
    recording, and at most `clip_s`.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus) -> None:
        self.recipe, self.lengths = recipe, corpus.lengths
        self.clock = Clock.of(recipe.model)
        self.stride = recipe.model.stride
        self.held_out, self.training = split(recipe, corpus)
        self._parts = parts_of(corpus, self.training)

    @property
    def n_training(self) -> int:
        """Recordings that are trained on."""
        return len(self.training)

    def cut(self, step: int, number: int) -> Cut:
        """Group `number` of the batch of update `step`."""
        indices = self._recordings(step, number)
        speeds = self.recipe.augmentation.speeds(len(indices), stream(self.recipe.seed, SPEED, step, number))
        return self._cropped(indices, stream(self.recipe.seed, CROP, step, number), speeds)

    def held_out_cuts(self) -> list[tuple[Cut, np.ndarray]]:
        """Groups of held-out recordings, and their masks [B, T], the same at every validation."""
        recipe, cuts = self.recipe, []
        for number, first in enumerate(range(0, len(self.held_out), recipe.group_clips)):
            random = stream(recipe.seed, VALIDATION, number)
            recordings = self.held_out[first : first + recipe.group_clips].tolist()
            length = self._n_samples(recordings)
            mask_BT = self._mask(random, len(recordings), length)
            cuts.append((self._cropped(recordings, random, [1.0] * len(recordings)), mask_BT))
        return cuts

    def mask(self, step: int, number: int) -> np.ndarray:
        """Boolean [B, T] of a group."""
        random = stream(self.recipe.seed, MASK, step, number)
        return self._mask(random, self.recipe.group_clips, self._n_samples(self._recordings(step, number)))

    def replacement(self, step: int, number: int, row: int, attempt: int, n_samples: int) -> tuple[int, int]:
        """The recording and first frame that stand in for a clip that cannot be read."""
        random = stream(self.recipe.seed, REPLACEMENT, step, number, row, attempt)
        long = self.training[self.lengths[self.training] >= n_samples]
        index = int(long[random.integers(len(long))])
        return index, int(random.integers((self.lengths[index] - n_samples) // self.stride + 1))

    def _recordings(self, step: int, number: int) -> list[int]:
        recipe = self.recipe
        first = (step - 1) * recipe.batch_clips + number * recipe.group_clips
        positions = range(first, first + recipe.group_clips)
        return [self._parts.recording(recipe.seed, position) for position in positions]

    def _n_samples(self, indices: Sequence[int]) -> int:
        return min(self.recipe.clip_samples, int(self.lengths[list(indices)].min()))

    def _cropped(self, indices: Sequence[int], random: np.random.Generator, speeds: Sequence[float]) -> Cut:
        """Crops begin on whole frames, as stored labels do; recordings too short for their speed are as they are."""
        n_samples, frames, possible = self._n_samples(indices), [], []
        for index, speed in zip(indices, speeds, strict=True):
            length = int(self.lengths[index])
            possible.append(speed if samples_at(speed, n_samples) <= length else 1.0)
            frames.append(int(random.integers((length - samples_at(possible[-1], n_samples)) // self.stride + 1)))
        return Cut(tuple(indices), tuple(frames), tuple(possible), n_samples)

    def _mask(self, random: np.random.Generator, n_clips: int, n_samples: int) -> np.ndarray:
        recipe, n_frames = self.recipe, self.clock.n_frames(n_samples)
        try:
            return span_mask(random, n_clips, n_frames, recipe.mask_probability, recipe.mask_length)
        except ValueError as error:
            reason = f"{error} (clip_s={recipe.clip_s:g}, mask_length={recipe.mask_length})"
            raise UsageError(f"mask_probability={recipe.mask_probability:g}", reason, "change one of them") from None


@dataclass(frozen=True)
class Parts:
    """The recordings [R] of each part of a corpus, and how many draws of an epoch are of each.

    Where a part has more or fewer draws than recordings, its epochs run on through the epochs of the whole.
    """

    recordings: tuple[np.ndarray, ...]
    draws: tuple[int, ...]

    def recording(self, seed: int, position: int) -> int:
        """The recording at a position of the endless sequence of clips."""
        epoch, within = divmod(position, sum(self.draws))
        slot = int(order(seed, epoch, sum(self.draws))[within])
        part = int(np.searchsorted(np.cumsum(self.draws), slot, side="right"))
        if len(self.draws) == 1:
            return int(self.recordings[0][slot])
        draw = epoch * self.draws[part] + slot - sum(self.draws[:part])
        own_epoch, own = divmod(draw, len(self.recordings[part]))
        return int(self.recordings[part][order(seed, own_epoch, len(self.recordings[part]), part + 1)[own]])


def parts_of(corpus: Corpus, training: np.ndarray) -> Parts:
    """The parts of a mixture, by its `weights` (share of the clips of each part); others have one part."""
    starts, weights = getattr(corpus, "starts", (0,)), getattr(corpus, "weights", (1.0,))
    bounds = [*starts, len(corpus)]
    recordings = tuple(training[(training >= a) & (training < b)] for a, b in pairwise(bounds))
    shares = np.array(weights) / sum(weights)
    draws = tuple(max(1, round(len(training) * share)) for share in shares) if len(shares) > 1 else (len(training),)
    for start, part in zip(starts, recordings, strict=True):
        if not len(part):
            raise UsageError("data", f"all recordings from {corpus.name(start)} on are held out", "hold out fewer")
    return Parts(recordings, draws)


def split(recipe: Recipe, corpus: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Held-out and training recordings [R]: by the pattern `validate_on`, otherwise a share, chosen by their names.

    A name decides by its hash, so that recordings stay on their side when a corpus grows.
    """
    n = len(corpus)
    ranks = np.array([int.from_bytes(hashlib.sha256(os.fsencode(corpus.name(i))).digest()[:8]) for i in range(n)])
    if recipe.validate_on:
        chosen = np.array([fnmatchcase(corpus.name(i), recipe.validate_on) for i in range(n)])
        if not chosen.any() or chosen.all():
            reason = f"matches {int(chosen.sum())} of the {n} names, such as {corpus.name(0)}"
            raise UsageError(f"validate_on={recipe.validate_on}", reason, "give another pattern")
    else:
        count = min(recipe.validate_clips, max(1, round(n * recipe.validate_share))) if n > 1 else 0
        chosen = np.zeros(n, bool)
        chosen[np.argsort(ranks, kind="stable")[:count]] = True
    held_out = np.flatnonzero(chosen)
    return held_out[np.argsort(ranks[held_out], kind="stable")][: recipe.validate_clips], np.flatnonzero(~chosen)


@lru_cache(maxsize=8)
def order(seed: int, epoch: int, n: int, part: int = 0) -> np.ndarray:
    """A permutation of n for an epoch."""
    return stream(seed, ORDER, epoch, *([part] if part else [])).permutation(n)
