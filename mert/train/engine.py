"""The pretraining engine: one step function, run by one process or many, resumed as if it had never stopped."""

from __future__ import annotations

import logging
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mert.errors import MertError
from mert.models.mert import Mert
from mert.train.batches import DROPOUT, Batches, torch_seed
from mert.train.checkpoints import Checkpoints, begin_moments
from mert.train.corpus import Corpus
from mert.train.initialisation import informed_start
from mert.train.objective import Group, Pretrainer, recompute_blocks
from mert.train.parallel import World, gradients_meet, spread
from mert.train.recipe import Recipe
from mert.train.run_log import RunLog
from mert.train.validation import held_out_metrics
from teachers.base import Teacher

SPIKE = 2.0  # times the running mean of the loss
MEMORY = 0.98
FIRST = 20  # steps before a jump can be told


@dataclass
class Guard:
    """Judges each step by its loss and gradient norm; its state travels with checkpoints.

    >>> guard = Guard()
    >>> guard.judge(float("nan"), 1.0), guard.bad_in_a_row, guard.judge(2.0, 1.0), guard.bad_in_a_row
    ('loss is nan', 1, None, 0)
    """

    mean: float = 0.0
    seen: int = 0
    bad_in_a_row: int = 0

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Why the update is to be skipped; None for a good one, which enters the running mean."""
        reason = None
        if not math.isfinite(loss):
            reason = f"loss is {loss}"
        elif not math.isfinite(grad_norm):
            reason = f"gradient norm is {grad_norm}"
        elif self.seen >= FIRST and loss > SPIKE * self.mean:
            reason = f"loss {loss:.3f} is over {SPIKE:g} times its running mean {self.mean:.3f}"
        if reason:
            self.bad_in_a_row += 1
            return reason
        self.mean = loss if self.seen == 0 else MEMORY * self.mean + (1 - MEMORY) * loss
        self.seen, self.bad_in_a_row = self.seen + 1, 0
        return None

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"mean": self.mean, "seen": self.seen, "bad_in_a_row": self.bad_in_a_row}


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


log = logging.getLogger("mert")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class TrainingError(MertError):
    """Training cannot go on."""


class Engine:
    """Trains a recipe: `run()` goes from the newest checkpoint, or from the start, to the last step.

    Everything of a step follows from the recipe and the step's number; what else a checkpoint holds are weights,
    moments and the guard's memory. So a run that was stopped goes on with the same bits, at the same number of
    processes, and where no layers are dropped with the same losses (1e-5) at another.
    """

    def __init__(
        self,
        recipe: Recipe,
        corpus: Corpus,
        teachers: dict[str, Teacher],
        world: World,
        model: Mert | None = None,
    ) -> None:
        self.recipe, self.world = recipe, world
        self.share = world.share(recipe.n_groups)
        self.batches = Batches(recipe, corpus, teachers, world.device)
        torch.manual_seed(recipe.seed)  # alike on all ranks
        n_classes = {name: teacher.n_classes for name, teacher in teachers.items() if teacher.n_classes}
        n_bins = {name: teacher.n_bins for name, teacher in teachers.items() if teacher.n_bins}
        self.objective = Pretrainer(
            model or Mert(recipe.model), n_classes, n_bins, recipe.class_width, recipe.weights, recipe.extra_classes
        )
        places = {name: teachers[name].codebooks() for name in n_classes} if recipe.codebook_start else {}
        informed_start(self.objective, recipe.filterbank_start and model is None, places)
        if recipe.activation_checkpointing:
            recompute_blocks(self.objective.model)
        if recipe.compile:
            for block in self.objective.model.encoder.blocks:
                block.compile()
        self.module = spread(self.objective, world, recipe.parallel).train()
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=recipe.lr, betas=recipe.betas[:2], eps=recipe.eps,  # type: ignore[arg-type]
            weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
        begin_moments(self.module, self.optimizer)
        self.guard = Guard()
        self.checkpoints = Checkpoints(Path(recipe.out), world, recipe.keep_checkpoints)
        self.facts = {
            "corpus": corpus.fingerprint,
            "teachers": {name: teacher.fingerprint for name, teacher in teachers.items()},
            "licences": {name: teacher.licence for name, teacher in teachers.items()},
        }

    def run(self, resume: bool = True, until: int | None = None) -> int:
        """Train to the last step (or to `until`); returns the last step done. SIGTERM and SIGUSR1 stop it cleanly."""
        done = self._resume() if resume else 0
        runlog = RunLog(self.recipe, done) if self.world.rank == 0 else None
        self._stop = False
        before = {number: signal.signal(number, self._ask_to_stop) for number in SIGNALS}
        try:
            for step in range(done + 1, (until or self.recipe.steps) + 1):
                row = self._step_and_validate(step, runlog)
                if runlog:  # before the save: a resume drops rows behind its checkpoint, and cannot make missing ones
                    runlog.row(row)
                stopping = self._anyone_stops()
                if stopping or step % self.recipe.checkpoint_every == 0 or step == self.recipe.steps:
                    self._save(step)
                done = step
                if stopping:
                    log.warning("stopped after step %d by a signal; the same command goes on", step)
                    break
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if runlog:
                runlog.close()
        return done

    def step(self, step: int) -> dict[str, Any]:
        """One update; returns its row of metrics. Losses are means over the masked frames of the whole batch."""
        started = time.perf_counter()
        update = Update(self.batches, self.world, step)
        self.optimizer.zero_grad(set_to_none=True)
        for micro_step in range(update.n_micro_steps):
            update.loss(self.module, micro_step).backward()
        row = update.row()
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip_norm)
        row["grad_norm"] = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        self._update(step, row)
        return row | {"seconds": time.perf_counter() - started}

    def _update(self, step: int, row: dict[str, Any]) -> None:
        """Apply the gradients, unless the guard objects; too many objections in a row end the run."""
        for settings in self.optimizer.param_groups:
            settings["lr"] = row["lr"] = self.recipe.lr_at(step)
        reason = self.guard.judge(row["loss"], row["grad_norm"])
        if reason is None:
            self.optimizer.step()
            return
        row["skipped"] = reason
        log.warning("step %d skipped: %s", step, reason)
        if self.guard.bad_in_a_row >= self.recipe.max_bad_steps:
            path = self._keep_batch(step)
            remedy = f"look at {path}; lower lr, or leave the recordings out"
            raise TrainingError(f"step {step}", f"{self.guard.bad_in_a_row} bad steps in a row ({reason})", remedy)

    def _step_and_validate(self, step: int, runlog: RunLog | None) -> dict[str, Any]:
        row = self.step(step)
        recipe = self.recipe
        if self.batches.n_held_out and (step % recipe.validate_every == 0 or step == recipe.steps):
            metrics = held_out_metrics(self.objective, self.batches, self.world.size == 1)
            row |= {f"valid/{name}": value for name, value in metrics.items()}
            if runlog:
                runlog.say(summary(step, metrics))
        return row

    def _save(self, step: int) -> None:
        self.checkpoints.save(step, self.module, self.optimizer, {"guard": self.guard.state(), **self.facts})

    def _resume(self) -> int:
        path = self.checkpoints.newest()
        if path is None:
            return 0
        step, state = self.checkpoints.load(path, self.module, self.optimizer)
        for name, fact in self.facts.items():
            if state[name] != fact:
                remedy = "use the same data and teachers, or another out="
                raise TrainingError(path, f"it was trained with another {name}", remedy)
        self.guard = Guard(**state["guard"])
        log.warning("going on after step %d from %s", step, path)
        return step

    def _keep_batch(self, step: int) -> Path:
        path = Path(self.recipe.out) / f"bad_step_{step:08d}_rank_{self.world.rank}.safetensors"
        groups = (self.batches.group(step, number) for number in self.share)
        tensors = {f"wave_{i}": group.wave_BN.cpu().contiguous() for i, group in enumerate(groups)}
        save_file(tensors, path)
        return path

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self._stop = True

    def _anyone_stops(self) -> bool:
        asked = torch.tensor(float(self._stop), device=self.world.device)
        return bool(self.world.total(asked) > 0)


def summary(step: int, metrics: dict[str, float]) -> str:
    """One line of the validation metrics that matter."""
    parts = [f"step {step}: held-out loss {metrics['loss']:.3f}"]
    teachers = dict.fromkeys(name.split("/")[0] for name in metrics if "/accuracy_" in name or name.endswith("/error"))
    for name in teachers:
        accuracies = [value for key, value in metrics.items() if key.startswith(f"{name}/accuracy_")]
        chances = [value for key, value in metrics.items() if key.startswith(f"{name}/most_frequent_")]
        if accuracies:
            ratio = min(a / c for a, c in zip(accuracies, chances, strict=True))
            mean = sum(accuracies) / len(accuracies)
            parts.append(f"{name} accuracy {mean:.3f} (at least {ratio:.2f} times the most frequent code)")
        else:
            parts.append(f"{name} error {metrics[f'{name}/error']:.3f} of predicting the mean")
    return ", ".join(parts)
