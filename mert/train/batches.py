"""Groups of clips with their masks, noise and targets, on the device that trains.

Shapes: B clips of a group, N samples, T frames.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from mert.errors import UsageError
from mert.train.corpus.base import Corpus
from mert.train.draw import AUGMENT, LAYER_DROP, MIX, Draw, stream
from mert.train.loader import Clips, Loader, Read
from mert.train.objective import Group
from mert.train.recipe import Recipe
from teachers.base import Crop, TargetSource, Teacher


class Batches:
    """Groups of a recipe over a corpus, with their targets, on a device.

    `group(step, g)` is group g of the batch of update `step` (from 1), the same in every process. Processes or a thread
    read the groups of `share` (all by default) ahead, in order. UsageError if a teacher and the model differ in their
    rates, TeacherError if a label store lacks a recording of the corpus.
    """

    def __init__(
        self, recipe: Recipe, corpus: Corpus, teachers: Mapping[str, TargetSource], device: torch.device,
        share: range | None = None,
    ) -> None:  # fmt: skip
        self.recipe, self.corpus, self.teachers, self.device = recipe, corpus, teachers, device
        self.draw = Draw(recipe, corpus)
        clips = Clips(corpus, self.draw)
        self.loader = Loader(clips, share or range(recipe.n_groups), recipe.steps, recipe.loader_workers, device)
        self.targets_s = 0.0  # seconds in which targets were computed
        self._timed = (0.0, 0.0)
        for name, teacher in teachers.items():
            if teacher.sample_rate != recipe.model.sample_rate or teacher.rate_hz != recipe.model.frame_rate:
                reason = f"works at {teacher.sample_rate} Hz and {teacher.rate_hz:g} frames a second"
                remedy = f"the model needs {recipe.model.sample_rate} Hz and {recipe.model.frame_rate:g}"
                raise UsageError(f"teacher {name}", reason, remedy)
            if recipe.augmentation.speed and not isinstance(teacher, Teacher):
                reason = f"{name} holds the targets of recordings at their own speed"
                raise UsageError(f"augmentation.speed={recipe.augmentation.speed:g}", reason, "give the teacher itself")
            teacher.check_recordings((corpus.name(index), int(corpus.lengths[index])) for index in range(len(corpus)))

    @property
    def n_held_out(self) -> int:
        """Recordings for validation."""
        return len(self.draw.held_out)

    def group(self, step: int, number: int) -> Group:
        """Group `number` of the batch of update `step`: mixed clips, and the targets of the clean ones."""
        return self._made(step, number, self.loader.read(self.draw.cut(step, number), (step, number)))

    def next_group(self, step: int, number: int) -> Group:
        """The same, by the processes or the thread that read ahead."""
        return self._made(step, number, self.loader.next(step, number))

    def counts(self, step: int, number: int) -> tuple[int, int]:
        """Masked frames and all frames of a group, without its audio."""
        mask_BT = self.draw.mask(step, number)
        return int(mask_BT.sum()), mask_BT.size

    def validates(self, step: int) -> bool:
        """Whether validation follows this step."""
        recipe = self.recipe
        return self.n_held_out > 0 and (step % recipe.validate_every == 0 or step == recipe.steps)

    def validation(self) -> Sequence[Group]:
        """Held-out groups, clean, with the same crops and masks at every validation."""
        cuts = self.draw.held_out_cuts()
        return [self._as_input(self._with_targets(self.loader.read(cut), mask_BT)) for cut, mask_BT in cuts]

    def skipped_layers(self, step: int, micro_step: int) -> tuple[int, ...]:
        """Layers (from 1) dropped in one forward pass, the same on all ranks."""
        config = self.recipe.model
        dice = stream(self.recipe.seed, LAYER_DROP, step, micro_step).random(config.n_layers)
        return tuple(int(i) + 1 for i in np.flatnonzero(dice < config.layer_drop))

    def times(self, seconds: float) -> dict[str, float]:
        """What a step of so many seconds spent on data and targets since the last call, and clips a second."""
        now = self.loader.waited_s, self.targets_s
        wait_s, targets_s = (after - before for after, before in zip(now, self._timed, strict=True))
        self._timed = now
        clips_per_s = self.recipe.batch_clips / seconds
        return {"seconds": seconds, "wait_s": wait_s, "targets_s": targets_s, "clips_per_s": clips_per_s}

    def close(self) -> None:
        """End the processes that read ahead."""
        self.loader.close()

    def _made(self, step: int, number: int, read: Read) -> Group:
        started = time.perf_counter()
        clean = self._with_targets(read, self.draw.mask(step, number))
        self.targets_s += time.perf_counter() - started
        recipe = self.recipe
        changing, mixing = (stream(recipe.seed, purpose, step, number) for purpose in (AUGMENT, MIX))
        changed_BN = recipe.augmentation(clean.wave_BN, changing, recipe.model.sample_rate)
        return self._as_input(replace(clean, wave_BN=recipe.mixing(changed_BN, mixing)))

    def _as_input(self, group: Group) -> Group:
        """The clips as the model takes them when it is used: each at one level, if that is in its configuration."""
        if not self.recipe.model.normalize:
            return group
        var_B1, mean_B1 = torch.var_mean(group.wave_BN, dim=1, correction=0, keepdim=True)
        return replace(group, wave_BN=(group.wave_BN - mean_B1) / torch.sqrt(var_B1 + 1e-7))

    def _with_targets(self, read: Read, mask_BT: np.ndarray) -> Group:
        wave_BN = read.wave_BN.to(self.device, non_blocking=True)
        n_frames = mask_BT.shape[1]
        crops = [
            Crop(self.corpus.name(index), int(self.corpus.lengths[index]), frame)
            for index, frame in zip(read.recordings, read.frames, strict=True)
        ]
        targets = {name: t.crop_targets(wave_BN, crops, n_frames) for name, t in self.teachers.items()}
        codes = {name: target.codes for name, target in targets.items() if target.codes is not None}
        frames = {name: target.frames for name, target in targets.items() if target.frames is not None}
        clips = {name: target.clips for name, target in targets.items() if target.clips is not None}
        return Group(wave_BN, torch.from_numpy(mask_BT).to(self.device), codes, frames, clips)
