"""The train and eval units of fairseq2's trainer: the updates and validation of our engine."""

import math
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

import soundfile  # noqa: F401 - see family.py for the order of these imports
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

from mert.errors import TrainingError
from mert.train.batches import Batches
from mert.train.engine import Update
from mert.train.objective import Pretrainer
from mert.train.parallel import World
from mert.train.recipe import Recipe
from mert.train.run_folder import RunLog
from mert.train.signals import StopRequest
from mert.train.validation import held_out_metrics, summary


@dataclass(frozen=True)
class MicroStep(SupportsDeviceTransfer):
    """The number of a micro-step. Its clips are read only when it runs: fairseq2 would hold all clips of a step."""

    step: int
    number: int

    def to(self, device: torch.device, *, non_blocking: bool = False) -> None:
        """Nothing to move."""


class Steps(DataReader[MicroStep]):
    """The micro-steps of this process, step after step; its state is the step."""

    def __init__(self, n_micro_steps: int, n_steps: int) -> None:
        self._n_micro_steps, self._n_steps, self._step = n_micro_steps, n_steps, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> list[MicroStep]:
        if self._step >= self._n_steps:
            raise StopIteration
        self._step += 1
        return [MicroStep(self._step, number) for number in range(self._n_micro_steps)]

    def reset(self) -> None:
        """Nothing: there is only one pass."""

    def state_dict(self) -> dict[str, object]:
        return {"step": self._step}

    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._step = int(state_dict["step"])  # type: ignore[call-overload]

    @property
    def num_accumulate(self) -> int:
        return self._n_micro_steps


class RecipeLR(AbstractLRScheduler):
    """`Recipe.lr_at`: update n, counted from 1, has the rate of n, whereas fairseq2's schedulers begin with 0."""

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe) -> None:
        self._recipe = recipe
        super().__init__(optimizer)

    def _compute_lrs(self) -> list[float | Tensor]:
        return [self._recipe.lr_at(min(self.last_epoch + 1, self._recipe.steps))] * len(self.base_lrs)

    def state_dict(self) -> dict[str, Any]:
        """All but the recipe: a restored one would replace that of this run."""
        return {name: value for name, value in super().state_dict().items() if name != "_recipe"}


class PretrainUnit(TrainUnit[MicroStep]):
    """The updates of our engine. The first process writes a row of metrics.jsonl per step.

    All processes must stop at the same step, or some would wait for the others for ever. A signal asks
    any of them; all exchange it as a step begins, and then all call `stop`.
    """

    def __init__(self, module: nn.Module, batches: Batches, world: World, runlog: RunLog | None) -> None:
        self.module, self.batches, self.world, self.runlog = module, batches, world, runlog
        self.stop_request = StopRequest()
        self.stop: Callable[[], None] = lambda: None
        self.row: dict[str, Any] = {}

    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        """Nothing: `Update` sums its metrics."""

    def set_step_nr(self, step_nr: int) -> None:
        """Begin an update."""
        self._started = time.perf_counter()
        self._update = Update(self.batches, self.world, step_nr)
        self._losses = self._update.losses(self.module)
        asked = self.world.total(torch.tensor(float(self.stop_request.asked), device=self.world.device))
        if step_nr == self.batches.recipe.steps or asked > 0:
            self.stop()

    def process_batch(self, batch: MicroStep, metric_bag: MetricBag) -> tuple[Tensor, int]:
        """Loss of a micro-step, and 0 targets, so that fairseq2 does not normalise it a second time.

        TrainingError on all processes, before the weights change, if the loss is not finite.
        """
        loss = next(self._losses)
        if batch.number == self._update.n_micro_steps - 1:
            self.row = self._update.row()
            if not math.isfinite(self.row["loss"]):
                remedy = "lower lr, or train with our own engine, which leaves bad steps out"
                raise TrainingError(f"step {batch.step}", f"loss is {self.row['loss']}", remedy)
        return loss, 0

    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        """Complete the row, pass it to fairseq2's recorders, and write it unless validation adds to it."""
        self.row["grad_norm"] = float(values["grad_norm"])  # type: ignore[arg-type]
        self.row["lr"] = self.batches.recipe.lr_at(self.row["step"])
        self.row |= self.batches.times(time.perf_counter() - self._started)
        values.update({name: value for name, value in self.row.items() if name != "step"})
        if self.runlog and not self.batches.validates(self.row["step"]):
            self.runlog.write_row(self.row)


class HeldOutUnit(EvalUnit[MicroStep]):
    """Validation as in our engine. It reads its own batches, so its reader is an empty `Steps`."""

    def __init__(self, training: PretrainUnit, objective: Pretrainer) -> None:
        self.training, self.objective = training, objective

    def prepare_metric_bag(self, metric_bag: MetricBag) -> None:
        """Nothing: every process computes all metrics."""

    def set_train_step_nr(self, step_nr: int) -> None:
        """Note which step is done."""
        self._step = step_nr

    def process_batch(self, batch: MicroStep, metric_bag: MetricBag) -> None:
        """Never called."""

    def finalize(self, metric_bag: MetricBag) -> None:
        """Validate, unless fairseq2 calls this at a stop between validation steps."""
        self._metrics: dict[str, float] = {}
        if self.training.batches.validates(self._step):
            world = self.training.world
            self._metrics = held_out_metrics(self.objective, self.training.batches, world.size == 1)

    def process_metric_values(self, values: MutableMapping[str, object]) -> None:
        """Add to the row of the step."""
        if self._metrics:
            values.update(self._metrics)
            self.training.row |= {f"valid/{name}": value for name, value in self._metrics.items()}
            if self.training.runlog:
                self.training.runlog.write_row(self.training.row)
                self.training.runlog.print(summary(self._step, self._metrics))
