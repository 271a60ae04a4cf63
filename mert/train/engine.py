"""The pretraining engine: one step function, run by one process or many, resumed as if it had never stopped."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mert.errors import MertError
from mert.model import Mert
from mert.train.batches import DROPOUT, Batches, torch_seed
from mert.train.checkpoint import Checkpoints
from mert.train.corpus import Corpus
from mert.train.guard import Guard
from mert.train.objective import Group, Pretrainer
from mert.train.parallel import World, gradients_meet, spread
from mert.train.recipe import Recipe
from mert.train.runlog import RunLog
from mert.train.validate import attention_peaks, frame_baselines, validate
from teachers.base import Teacher

log = logging.getLogger("mert")
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
BASELINE_GROUPS = 8


class TrainingError(MertError):
    """Training cannot go on."""


class Engine:
    """Trains a recipe: `run()` goes from the newest checkpoint, or from the start, to the last step.

    Everything of a step follows from the recipe and the step's number; what else a checkpoint holds are weights,
    moments and the guard's memory. So a run that was stopped goes on with the same bits, at the same number of
    processes, and with the same losses (1e-5) at another.
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
        if recipe.activation_checkpointing:
            recompute_blocks(self.objective.model)
        if recipe.compile:
            for block in self.objective.model.encoder.blocks:
                block.compile()
        self.module = spread(self.objective, world, recipe.parallel).train()
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=recipe.lr, betas=recipe.betas[:2], eps=recipe.eps,  # type: ignore[arg-type]
            weight_decay=recipe.weight_decay,
        )  # fmt: skip
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
                stopping = self._anyone_stops()
                if stopping or step % self.recipe.checkpoint_every == 0 or step == self.recipe.steps:
                    self._save(step)
                if runlog:
                    runlog.row(row)
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
        recipe, total = self.recipe, self._count_masked(step)
        sums: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for micro_step, group in enumerate(self._groups(step)):
            torch.manual_seed(torch_seed(recipe.seed, DROPOUT, step, self.share[micro_step]))
            last = micro_step == len(self.share) - 1
            skip = self.batches.skipped_layers(step, micro_step)
            with gradients_meet(self.module, last):
                with torch.autocast(self.world.device.type, torch.bfloat16, enabled=recipe.dtype == "bfloat16"):
                    loss, parts = self.module(group, skip)
                (loss * (self.world.size / total)).backward()  # DDP and FSDP take means over processes
            for name, part in (parts | {"loss": loss.detach()}).items():
                sums[name] = sums.get(name, torch.zeros_like(part, dtype=torch.float64)) + part.double()
        row = self._row(step, sums, total)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), recipe.clip_norm)
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

    def _groups(self, step: int) -> Iterator[Group]:
        return (self.batches.group(step, number) for number in self.share)

    def _count_masked(self, step: int) -> float:
        """Masked frames of the whole batch: masks need no audio, so this comes before the first forward pass."""
        count = sum(self.batches.n_masked(step, number) for number in self.share)
        return float(self.world.total(torch.tensor(float(count), device=self.world.device)))

    def _row(self, step: int, sums: dict[str, Tensor], total: float) -> dict[str, Any]:
        """Means over the batch, summed over all processes in one exchange."""
        flat = self.world.total(torch.cat([part.flatten() for part in sums.values()]))
        means = (flat / total).tolist()
        row: dict[str, Any] = {"step": step}
        for name, part in sums.items():
            values, means = means[: part.numel()], means[part.numel() :]
            row |= {name: values[0]} if part.ndim == 0 else {f"{name}_{k}": value for k, value in enumerate(values)}
        n_frames = self.recipe.batch_clips * self.batches.n_frames
        return {"step": step, "loss": row.pop("loss")} | row | {"masked_share": total / n_frames}

    def _step_and_validate(self, step: int, runlog: RunLog | None) -> dict[str, Any]:
        row = self.step(step)
        recipe = self.recipe
        if self.batches.n_held_out and (step % recipe.validate_every == 0 or step == recipe.steps):
            groups = self.batches.validation()
            first = min(BASELINE_GROUPS, recipe.n_groups)
            baselines = frame_baselines([self.batches.group(1, number) for number in range(first)])
            metrics = validate(self.objective, groups, baselines)
            if self.world.size == 1:
                metrics |= attention_peaks(self.objective.model, groups[0])
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
        tensors = {f"wave_{i}": group.wave_BN.cpu().contiguous() for i, group in enumerate(self._groups(step))}
        save_file(tensors, path)
        return path

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self._stop = True

    def _anyone_stops(self) -> bool:
        asked = torch.tensor(float(self._stop), device=self.world.device)
        return bool(self.world.total(asked) > 0)


def recompute_blocks(model: Mert) -> None:
    """Keep a block's input instead of what it computes, and compute it again for the gradients."""
    for block in model.encoder.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


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
