"""What fairseq2's trainer is given to do: the same updates as our engine's, read step by step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

import soundfile  # noqa: F401 - see fairseq2_family for the order of these imports
import torch

# isort: split
import fairseq2.recipe.base  # noqa: F401
from fairseq2.datasets import DataReader
from fairseq2.device import SupportsDeviceTransfer
from fairseq2.evaluator import EvalUnit
from fairseq2.metrics import MetricBag
from fairseq2.optim.lr_schedulers import AbstractLRScheduler
from fairseq2.trainer import TrainUnit
from torch import Tensor, nn

from mert.train.batches import Batches
from mert.train.engine import TrainingError, Update, summary
from mert.train.objective import Pretrainer
from mert.train.parallel import World
from mert.train.recipe import Recipe
from mert.train.run_log import RunLog
from mert.train.validation import held_out_metrics


@dataclass(frozen=True)
class Place(SupportsDeviceTransfer):
    """A micro-step. Its clips are made when its turn comes: fairseq2 would hold all clips of a step at once."""

    step: int
    micro_step: int

    def to(self, device: torch.device, *, non_blocking: bool = False) -> None:
        """Nothing to move."""


class Steps(DataReader[Place]):
    """The micro-steps of this process, step after step; its state is the step."""

    def __init__(self, n_micro_steps: int, n_steps: int) -> None:
        self._n_micro_steps, self._n_steps, self._step = n_micro_steps, n_steps, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[Place]:
        if self._step >= self._n_steps:
            raise StopIteration
        self._step += 1
        return [Place(self._step, micro_step) for micro_step in range(self._n_micro_steps)]

    def reset(self) -> None:
        """Nothing: there is one pass, and it has an end."""

    def state_dict(self) -> dict[str, object]:
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._step = int(state_dict["step"])  # type: ignore[call-overload]

    @property
    def num_accumulate(self) -> int:
        return self._n_micro_steps


class RecipeLR(AbstractLRScheduler):
    """`Recipe.lr_at`: update n, counted from 1, runs with the rate of n, where fairseq2's own begin with 0."""

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
        self._recipe = recipe
        super().__init__(optimizer)

    def _compute_lrs(self) -> list[float | Tensor]:
        return [self._recipe.lr_at(min(self.last_epoch + 1, self._recipe.steps))] * len(self.base_lrs)

    def state_dict(self) -> dict[str, Any]:
        """All but the recipe: one that was restored would overrule the one that is run."""
        return {name: value for name, value in super().state_dict().items() if name != "_recipe"}


class PretrainUnit(TrainUnit[Place]):
    """The updates of our engine. The first process writes a row of metrics.jsonl a step.

    Stopping has to be agreed on, or some processes would wait for the others for ever: `wants_to_stop`, which a signal
    sets on any of them, is looked at by all as a step begins, and `stop` is then called on all of them.
    """

    def __init__(self, module: nn.Module, batches: Batches, world: World, runlog: RunLog | None) -> None:
        self.module, self.batches, self.world, self.runlog = module, batches, world, runlog
        self.wants_to_stop = False
        self.stop: Callable[[], None] = lambda: None
        self.row: dict[str, Any] = {}

    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        """Nothing: the update has its own sums."""

    def set_step_nr(self, step_nr: int) -> None:
        """Begin an update."""
        self._started = time.perf_counter()
        self._update = Update(self.batches, self.world, step_nr)
        asked = self.world.total(torch.tensor(float(self.wants_to_stop), device=self.world.device))
        if step_nr == self.batches.recipe.steps or asked > 0:
            self.stop()

    def process_batch(self, batch: Place, metric_bag: MetricBag) -> tuple[Tensor, int]:
        """Loss of a micro-step, and 0 targets: it is normalised already, and fairseq2 must not do it again.

        A loss that is no number ends the run on all processes, before it reaches the weights.
        """
        loss = self._update.loss(self.module, batch.micro_step)
        if batch.micro_step == self._update.n_micro_steps - 1:
            self.row = self._update.row()
            if not math.isfinite(self.row["loss"]):
                remedy = "lower lr, or train with our own engine, which leaves bad steps out"
                raise TrainingError(f"step {batch.step}", f"loss is {self.row['loss']}", remedy)
        return loss, 0

    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        """Finish the row, unless validation adds to it, and show it to fairseq2's recorders."""
        self.row["grad_norm"] = float(values["grad_norm"])  # type: ignore[arg-type]
        self.row["lr"] = self.batches.recipe.lr_at(self.row["step"])
        self.row["seconds"] = time.perf_counter() - self._started
        values.update({name: value for name, value in self.row.items() if name != "step"})
        if not self.validates(self.row["step"]):
            self.write()

    def validates(self, step: int) -> bool:
        """Whether held-out clips are listened to after this step."""
        recipe = self.batches.recipe
        return self.batches.n_held_out > 0 and (step % recipe.validate_every == 0 or step == recipe.steps)

    def write(self) -> None:
        """Record the row."""
        if self.runlog:
            self.runlog.row(self.row)


class HeldOutUnit(EvalUnit[Place]):
    """Validation as in our engine: it has its own batches, so its reader is an empty `Steps`."""

    def __init__(self, training: PretrainUnit, objective: Pretrainer) -> None:
        self.training, self.objective = training, objective

    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        """Nothing: every process computes all metrics, alike."""

    def set_train_step_nr(self, step_nr: int) -> None:
        """Which step has been done."""
        self._step = step_nr

    def process_batch(self, batch: Place, metric_bag: MetricBag) -> None:
        """Never called."""

    def finalize(self, metric_bag: MetricBag) -> None:
        """Listen to held-out clips; a run that was asked to stop has no time for it."""
        self._metrics: dict[str, float] = {}
        if self.training.validates(self._step):
            world = self.training.world
            self._metrics = held_out_metrics(self.objective, self.training.batches, world.size == 1)

    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        """Add to the row of the step."""
        if self._metrics:
            values.update(self._metrics)
            self.training.row |= {f"valid/{name}": value for name, value in self._metrics.items()}
            self.training.write()
            if self.training.runlog:
                self.training.runlog.say(summary(self._step, self._metrics))
