"""What one process computes of one update: its groups of the batch, their losses, and means over the whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mert.train.batches import DROPOUT, Batches, torch_seed
from mert.train.objective import Group
from mert.train.parallel import World, gradients_meet


class Update:
    """This process's share of update `step` (from 1), as a pure function of seed and step, whoever drives it.

    Call `loss(module, i).backward()` for i = 0, 1, ... below `n_micro_steps`, in order, then `row()`. A micro-step is a
    group, or `clips_at_once` of its clips: mixed and masked together, they need not be in memory together.
    """

    def __init__(self, batches: Batches, world: World, step: int) -> None:
        self.batches, self.world, self.step = batches, world, step
        self.share = world.share(batches.recipe.n_groups)
        # Masks need no audio, so this comes before the first forward pass.
        count = sum(batches.n_masked(step, number) for number in self.share)
        self.n_masked = float(world.total(torch.tensor(float(count), device=world.device)))
        recipe = batches.recipe
        self.n_parts = -(-recipe.group_clips // (recipe.clips_at_once or recipe.group_clips))
        self.n_micro_steps = len(self.share) * self.n_parts
        self._parts: list[Group] = []
        self._sums: dict[str, Tensor] = {}

    def loss(self, module: nn.Module, micro_step: int) -> Tensor:
        """Loss of a micro-step, scaled so that all gradients of all processes make that of the batch's mean."""
        recipe, (place, part) = self.batches.recipe, divmod(micro_step, self.n_parts)
        if part == 0:
            group = self.batches.group(self.step, self.share[place])
            if after := self._after(place):
                self.batches.read_ahead(*after)
            self._parts = group.split(recipe.clips_at_once or recipe.group_clips)
            torch.manual_seed(torch_seed(recipe.seed, DROPOUT, self.step, self.share[place]))
        skip = self.batches.skipped_layers(self.step, place)
        with (
            gradients_meet(module, last=micro_step == self.n_micro_steps - 1),
            torch.autocast(self.world.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"),
        ):
            loss, parts = module(self._parts[part], skip)
        for name, value in (parts | {"loss": loss.detach()}).items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value, dtype=torch.float64)) + value.double()
        return loss * (self.world.size / self.n_masked)  # DDP and FSDP take means over processes

    def _after(self, place: int) -> tuple[int, int] | None:
        """Step and number of the group that this process needs next, if the run goes on."""
        if place + 1 < len(self.share):
            return self.step, self.share[place + 1]
        return (self.step + 1, self.share[0]) if self.step < self.batches.recipe.steps else None

    def row(self) -> dict[str, Any]:
        """Metrics of the step: means over the masked frames of the batch, summed over all processes in one exchange."""
        flat = self.world.total(torch.cat([part.flatten() for part in self._sums.values()]))
        means = (flat / self.n_masked).tolist()
        row: dict[str, Any] = {}
        for name, part in self._sums.items():
            values, means = means[: part.numel()], means[part.numel() :]
            row |= {name: values[0]} if part.ndim == 0 else {f"{name}_{k}": value for k, value in enumerate(values)}
        n_frames = self.batches.recipe.batch_clips * self.batches.n_frames
        return {"step": self.step, "loss": row.pop("loss")} | row | {"masked_share": self.n_masked / n_frames}
