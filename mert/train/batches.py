"""Batches as pure functions of (seed, step): which clips, from where, masked and disturbed how.

Shapes: B clips of a group, N samples, T frames.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch

from mert.errors import UsageError
from mert.models.frontend import ConvFrontend
from mert.train.corpus import Corpus
from mert.train.corruption import span_mask
from mert.train.objective import Group
from mert.train.recipe import Recipe
from teachers import load_teacher
from teachers.base import Teacher
from teachers.labels import LabelStore

log = logging.getLogger("mert")

Crop = tuple[int, int]  # recording, and the frame it begins at

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
    epoch goes through the training recordings once, in an order of its own. What `read_ahead` was told of is decoded
    or composed by a thread, while the model learns from what came before.
    """

    def __init__(self, recipe: Recipe, corpus: Corpus, teachers: Mapping[str, Teacher], device: torch.device) -> None:
        self.recipe, self.corpus, self.teachers, self.device = recipe, corpus, teachers, device
        self.n_held_out = min(recipe.validate_clips, len(corpus) // 2)
        self.n_training = len(corpus) - self.n_held_out
        self.stride = recipe.model.stride
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._ahead: dict[tuple[int, int], Future[np.ndarray]] = {}
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
        recipe, crops = self.recipe, self._crops(step, number)
        read = self._ahead.pop((step, number), None)
        wave_BN = self._read(crops) if read is None else read.result()
        mask_BT = self._mask(stream(recipe.seed, MASK, step, number), len(crops))
        clean = self._with_targets(wave_BN, crops, mask_BT)
        mixed_BN = recipe.mixing(clean.wave_BN, stream(recipe.seed, MIX, step, number))
        return Group(mixed_BN, clean.mask_BT, clean.codes, clean.frames)

    def read_ahead(self, step: int, number: int) -> None:
        """Begin to read a group that `group` will be asked for next; what was begun before is forgotten."""
        self._ahead = {(step, number): self._reader.submit(self._read, self._crops(step, number))}

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
            crops = self._cropped([self.n_training + place for place in places], random)
            groups.append(self._with_targets(self._read(crops), crops, mask_BT))
        return groups

    def skipped_layers(self, step: int, micro_step: int) -> tuple[int, ...]:
        """Layers (from 1) left out of one forward pass, alike on all ranks."""
        config = self.recipe.model
        dice = stream(self.recipe.seed, LAYER_DROP, step, micro_step).random(config.n_layers)
        return tuple(int(i) + 1 for i in np.flatnonzero(dice < config.layer_drop))

    def _recording(self, place: int) -> int:
        epoch, within = divmod(place, self.n_training)
        return int(_order(self.recipe.seed, epoch, self.n_training)[within])

    def _crops(self, step: int, number: int) -> list[Crop]:
        recipe = self.recipe
        first = (step - 1) * recipe.batch_clips + number * recipe.group_clips
        indices = [self._recording(place) for place in range(first, first + recipe.group_clips)]
        return self._cropped(indices, stream(recipe.seed, CROP, step, number))

    def _cropped(self, indices: Sequence[int], random: np.random.Generator) -> list[Crop]:
        """Crops begin on whole frames, so that stored labels fit to the sample."""
        n_samples = self.recipe.clip_samples
        latest = [(self.corpus.n_samples(index) - n_samples) // self.stride for index in indices]
        return [
            (index, int(random.integers(0, last, endpoint=True))) for index, last in zip(indices, latest, strict=True)
        ]

    def _read(self, crops: Sequence[Crop]) -> np.ndarray:
        n_samples = self.recipe.clip_samples
        return np.stack([self.corpus.read(index, frame * self.stride, n_samples) for index, frame in crops])

    def _with_targets(self, clips_BN: np.ndarray, crops: Sequence[Crop], mask_BT: torch.Tensor) -> Group:
        wave_BN = torch.from_numpy(clips_BN).to(self.device)
        codes, values = {}, {}
        for name, teacher in self.teachers.items():
            if isinstance(teacher, LabelStore):
                codes[name] = self._stored(teacher, crops)
                continue
            targets = teacher.targets(wave_BN)
            if targets.codes is not None:
                codes[name] = targets.codes[:, :, : self.n_frames]
            if targets.frames is not None:
                values[name] = targets.frames[:, : self.n_frames]
        return Group(wave_BN, mask_BT, codes, values)

    def _stored(self, store: LabelStore, crops: Sequence[Crop]) -> torch.Tensor:
        rows = [
            store.codes(self.corpus.name(index), self.corpus.n_samples(index), frame, self.n_frames)
            for index, frame in crops
        ]
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
