"""Batches as pure functions of (seed, step): which clips, cut where, how masked and mixed.

Shapes: B clips of a group, N samples, T frames.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from mert.embedding.windows import Clock
from mert.errors import UsageError
from mert.train.corpus import Corpus
from mert.train.corruption import span_mask
from mert.train.objective import Group
from mert.train.recipe import Recipe
from teachers.base import Crop, TargetSource

CROP, MASK, MIX, DROPOUT, LAYER_DROP, ORDER, VALIDATION = range(7)  # purposes of random streams


def stream(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    return np.random.default_rng(np.random.SeedSequence(key))


def torch_seed(*key: int) -> int:
    """A seed for torch that depends on the key alone."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


class Batches:
    """Groups of a recipe over a corpus. The last `validate_clips` recordings are held out for validation.

    `group(step, g)` is group g of the batch of update `step` (from 1), the same in every process. Each epoch goes
    through the training recordings once, in its own order. A thread decodes or synthesises the group that `read_ahead`
    names while the model trains on the one before. UsageError if a teacher and the model differ in their rates,
    TeacherError if a label store lacks a recording of the corpus.
    """

    def __init__(
        self, recipe: Recipe, corpus: Corpus, teachers: Mapping[str, TargetSource], device: torch.device
    ) -> None:
        self.recipe, self.corpus, self.teachers, self.device = recipe, corpus, teachers, device
        self.n_held_out = min(recipe.validate_clips, len(corpus) // 2)
        self.n_training = len(corpus) - self.n_held_out
        self.stride = recipe.model.stride
        self.n_frames = Clock.of(recipe.model).n_frames(recipe.clip_samples)
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._ahead: dict[tuple[int, int], Future[np.ndarray]] = {}
        for name, teacher in teachers.items():
            if teacher.sample_rate != recipe.model.sample_rate or teacher.rate_hz != recipe.model.frame_rate:
                reason = f"works at {teacher.sample_rate} Hz and {teacher.rate_hz:g} frames a second"
                remedy = f"the model needs {recipe.model.sample_rate} Hz and {recipe.model.frame_rate:g}"
                raise UsageError(f"teacher {name}", reason, remedy)
            teacher.check_recordings((corpus.name(index), corpus.n_samples(index)) for index in range(len(corpus)))

    def group(self, step: int, number: int) -> Group:
        """Group `number` of the batch of update `step`: mixed clips, and the targets of the clean ones."""
        recipe, crops = self.recipe, self._crops(step, number)
        ahead = self._ahead.pop((step, number), None)
        wave_BN = self._read(crops) if ahead is None else ahead.result()
        mask_BT = self._mask(stream(recipe.seed, MASK, step, number), len(crops))
        clean = self._with_targets(wave_BN, crops, mask_BT)
        return replace(clean, wave_BN=recipe.mixing(clean.wave_BN, stream(recipe.seed, MIX, step, number)))

    def read_ahead(self, step: int, number: int) -> None:
        """Start to read the group that `group` will be asked for next; an earlier one that is unused is dropped."""
        self._ahead = {(step, number): self._reader.submit(self._read, self._crops(step, number))}

    def n_masked(self, step: int, number: int) -> int:
        """Masked frames of a group, without its audio."""
        return int(self._mask(stream(self.recipe.seed, MASK, step, number), self.recipe.group_clips).sum())

    def validates(self, step: int) -> bool:
        """Whether validation follows this step."""
        recipe = self.recipe
        return self.n_held_out > 0 and (step % recipe.validate_every == 0 or step == recipe.steps)

    def validation(self) -> Sequence[Group]:
        """Held-out groups, clean, with the same crops and masks at every validation."""
        recipe, groups = self.recipe, []
        for number in range(-(-self.n_held_out // recipe.group_clips)):
            held_out = range(number * recipe.group_clips, min(self.n_held_out, (number + 1) * recipe.group_clips))
            random = stream(recipe.seed, VALIDATION, number)
            mask_BT = self._mask(random, len(held_out))
            crops = self._cropped([self.n_training + index for index in held_out], random)
            groups.append(self._with_targets(self._read(crops), crops, mask_BT))
        return groups

    def skipped_layers(self, step: int, micro_step: int) -> tuple[int, ...]:
        """Layers (from 1) dropped in one forward pass, the same on all ranks."""
        config = self.recipe.model
        dice = stream(self.recipe.seed, LAYER_DROP, step, micro_step).random(config.n_layers)
        return tuple(int(i) + 1 for i in np.flatnonzero(dice < config.layer_drop))

    def _recording(self, position: int) -> int:
        epoch, within = divmod(position, self.n_training)
        return int(_order(self.recipe.seed, epoch, self.n_training)[within])

    def _crops(self, step: int, number: int) -> list[tuple[int, int]]:
        recipe = self.recipe
        first = (step - 1) * recipe.batch_clips + number * recipe.group_clips
        indices = [self._recording(position) for position in range(first, first + recipe.group_clips)]
        return self._cropped(indices, stream(recipe.seed, CROP, step, number))

    def _cropped(self, indices: Sequence[int], random: np.random.Generator) -> list[tuple[int, int]]:
        """Recordings and the first frames of their crops; crops begin on whole frames, as stored labels do."""
        latest = ((self.corpus.n_samples(index) - self.recipe.clip_samples) // self.stride for index in indices)
        return [(index, int(random.integers(last + 1))) for index, last in zip(indices, latest, strict=True)]

    def _read(self, crops: Sequence[tuple[int, int]]) -> np.ndarray:
        n_samples = self.recipe.clip_samples
        return np.stack([self.corpus.read(index, frame * self.stride, n_samples) for index, frame in crops])

    def _with_targets(self, clips_BN: np.ndarray, crops: Sequence[tuple[int, int]], mask_BT: torch.Tensor) -> Group:
        wave_BN = torch.from_numpy(clips_BN).to(self.device)
        named = [Crop(self.corpus.name(index), self.corpus.n_samples(index), frame) for index, frame in crops]
        targets = {name: t.crop_targets(wave_BN, named, self.n_frames) for name, t in self.teachers.items()}
        codes = {name: target.codes for name, target in targets.items() if target.codes is not None}
        frames = {name: target.frames for name, target in targets.items() if target.frames is not None}
        return Group(wave_BN, mask_BT, codes, frames)

    def _mask(self, random: np.random.Generator, n_clips: int) -> torch.Tensor:
        recipe = self.recipe
        try:
            mask_BT = span_mask(random, n_clips, self.n_frames, recipe.mask_probability, recipe.mask_length)
        except ValueError as error:
            reason = f"{error} (clip_s={recipe.clip_s:g}, mask_length={recipe.mask_length})"
            raise UsageError(f"mask_probability={recipe.mask_probability:g}", reason, "change one of them") from None
        return torch.from_numpy(mask_BT).to(self.device)


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return stream(seed, ORDER, epoch).permutation(n)
