"""Batches as pure functions of (seed, step): which clips, from where, masked and disturbed how.

Shapes: B clips of a group, N samples, T frames.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch

from mert.errors import UsageError
from mert.frontend import ConvFrontend
from mert.train.corpus import Corpus
from mert.train.masking import span_mask
from mert.train.objective import Group
from mert.train.recipe import Recipe
from teachers import load_teacher
from teachers.base import Teacher
from teachers.labels import LabelStore

log = logging.getLogger("mert")

CROP, MASK, MIX, DROPOUT, LAYER_DROP, ORDER, VALIDATION = range(7)  # purposes of random streams


def stream(*key: int) -> np.random.Generator:
    """Random numbers that depend on nothing but the key."""
    return np.random.default_rng(np.random.SeedSequence(key))


def torch_seed(*key: int) -> int:
    """A seed for torch that depends on nothing but the key."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Batches:
    """Groups of a recipe over a corpus. The last `validate_clips` recordings are held out for validation.

    `group(step, g)` is group g of the batch of update `step` (from 1); every process that asks gets the same. Each
    epoch goes through the training recordings once, in an order of its own.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, teachers: Mapping[str, Teacher], device: torch.device) -> None:
        self.recipe, self.corpus, self.teachers, self.device = recipe, corpus, teachers, device
        self.n_held_out = min(recipe.validate_clips, len(corpus) // 2)
        self.n_training = len(corpus) - self.n_held_out
        self.stride = recipe.model.stride
        with torch.device("meta"):
            self.n_frames = int(ConvFrontend(recipe.model).n_frames(recipe.clip_samples))
        for name, teacher in teachers.items():
            if teacher.sample_rate != recipe.model.sample_rate or teacher.rate_hz != recipe.model.frame_rate:
                raise UsageError(
                    f"teacher {name}",
                    f"works at {teacher.sample_rate} Hz and {teacher.rate_hz:g} frames a second",
                    f"the model needs {recipe.model.sample_rate} Hz and {recipe.model.frame_rate:g}",
                )
            if isinstance(teacher, LabelStore):  # refused now rather than in a later epoch
                for index in range(len(corpus)):
                    teacher.codes(corpus.name(index), corpus.n_samples(index), 0, 0)

    def group(self, step: int, number: int) -> Group:
        """Group `number` of the batch of update `step`, disturbed by its own clips."""
        recipe = self.recipe
        first = (step - 1) * recipe.batch_clips + number * recipe.group_clips
        indices = [self._recording(place) for place in range(first, first + recipe.group_clips)]
        mask_BT = self._mask(stream(recipe.seed, MASK, step, number), len(indices))
        clean = self._clean(indices, mask_BT, stream(recipe.seed, CROP, step, number))
        mixed_BN = recipe.mixing(clean.wave_BN, stream(recipe.seed, MIX, step, number))
        return Group(mixed_BN, clean.mask_BT, clean.codes, clean.frames)

    def n_masked(self, step: int, number: int) -> int:
        """Masked frames of a group, without its audio."""
        return int(self._mask(stream(self.recipe.seed, MASK, step, number), self.recipe.group_clips).sum())

    def validation(self) -> Sequence[Group]:
        """Held-out groups, clean, with the same crops and masks at every validation."""
        recipe, groups = self.recipe, []
        for number in range(-(-self.n_held_out // recipe.group_clips)):
            places = range(number * recipe.group_clips, min(self.n_held_out, (number + 1) * recipe.group_clips))
            random = stream(recipe.seed, VALIDATION, number)
            mask_BT = self._mask(random, len(places))
            groups.append(self._clean([self.n_training + place for place in places], mask_BT, random))
        return groups

    def skipped_layers(self, step: int, micro_step: int) -> tuple[int, ...]:
        """Layers (from 1) left out of one forward pass, alike on all ranks."""
        config = self.recipe.model
        dice = stream(self.recipe.seed, LAYER_DROP, step, micro_step).random(config.n_layers)
        return tuple(int(i) + 1 for i in np.flatnonzero(dice < config.layer_drop))

    def _recording(self, place: int) -> int:
        epoch, within = divmod(place, self.n_training)
        return int(_order(self.recipe.seed, epoch, self.n_training)[within])

    def _clean(self, indices: Sequence[int], mask_BT: torch.Tensor, random: np.random.Generator) -> Group:
        """Crops and their targets. Crops begin on whole frames, so that stored labels fit to the sample."""
        n_samples = self.recipe.clip_samples
        latest = [(self.corpus.n_samples(index) - n_samples) // self.stride for index in indices]
        frames = [int(random.integers(0, last, endpoint=True)) for last in latest]
        crops = zip(indices, frames, strict=True)
        clips = [self.corpus.read(index, frame * self.stride, n_samples) for index, frame in crops]
        wave_BN = torch.from_numpy(np.stack(clips)).to(self.device)
        codes, values = {}, {}
        for name, teacher in self.teachers.items():
            if isinstance(teacher, LabelStore):
                codes[name] = self._stored(teacher, indices, frames)
                continue
            targets = teacher.targets(wave_BN)
            if targets.codes is not None:
                codes[name] = targets.codes[:, :, : self.n_frames]
            if targets.frames is not None:
                values[name] = targets.frames[:, : self.n_frames]
        return Group(wave_BN, mask_BT, codes, values)

    def _stored(self, store: LabelStore, indices: Sequence[int], frames: Sequence[int]) -> torch.Tensor:
        names = [(self.corpus.name(index), self.corpus.n_samples(index)) for index in indices]
        rows = [store.codes(*name, frame, self.n_frames) for name, frame in zip(names, frames, strict=True)]
        return torch.from_numpy(np.stack(rows).astype(np.int64)).to(self.device)

    def _mask(self, random: np.random.Generator, n_clips: int) -> torch.Tensor:
        recipe = self.recipe
        mask_BT = span_mask(random, n_clips, self.n_frames, recipe.mask_probability, recipe.mask_length)
        return torch.from_numpy(mask_BT).to(self.device)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return stream(seed, ORDER, epoch).permutation(n)


def load_teachers(names: Sequence[str]) -> dict[str, Teacher]:
    """The teachers of a recipe by their own names; a licence that binds what they teach is shown."""
    teachers: dict[str, Teacher] = {}
    for name in names:
        teacher = load_teacher(name)
        if teacher.name in teachers:
            raise UsageError(f"teachers={','.join(names)}", f"names {teacher.name} twice", "name each teacher once")
        teachers[teacher.name] = teacher
        if "NC" in teacher.licence:
            log.warning("%s is under %s, and so is what it teaches", name, teacher.licence)
    return teachers
