"""The pretraining engine: one step function, run by one process or many, resumed as if it had never stopped."""

from __future__ import annotations

import logging
import signal
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from mert.errors import MertError
from mert.model import Mert
from mert.train.batches import Batches
from mert.train.checkpoint import Checkpoints, begin_moments
from mert.train.corpus import Corpus
from mert.train.guard import Guard
from mert.train.objective import Pretrainer, recompute_blocks
from mert.train.parallel import World, spread
from mert.train.recipe import Recipe
from mert.train.runlog import RunLog
from mert.train.start import informed_start
from mert.train.update import Update
from mert.train.validate import held_out_metrics
from teachers.base import Teacher

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
