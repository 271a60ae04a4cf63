"""The pretraining engine: one step function, run by one process or many, and resumed bit for bit."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mert.errors import OutputError, TrainingError
from mert.files import read_json, write_whole
from mert.train.batches import Batches
from mert.train.checkpoints import MARKER, Checkpoints, step_of
from mert.train.corpus.base import Corpus
from mert.train.draw import DROPOUT, torch_seed
from mert.train.history import Change
from mert.train.ingredients import facts
from mert.train.initialisation import PretrainerConfig, Start, new_pretrainer
from mert.train.objective import Group, add_parts, recompute_blocks, tf32
from mert.train.parallel import World, parallelize, sync_gradients
from mert.train.probing import open_monitor, probe_scores
from mert.train.recipe import Recipe
from mert.train.resume import changes_after, continued
from mert.train.run_folder import RunLog, only_run
from mert.train.signals import StopRequest, undisturbed
from mert.train.validation import held_out_metrics, summary
from teachers.base import TargetSource

log = logging.getLogger("mert")
SPIKE_RATIO = 2.0  # a loss above this many times its running mean is a spike
MEAN_DECAY = 0.98  # of the running mean
MIN_STEPS = 20  # accepted steps before spikes are looked for
SAVE_S = 15 * 60.0  # a checkpoint is never older when steps are shorter


@dataclass
class Guard:
    """Skips updates whose loss or gradient norm is not finite, or whose loss spikes. Checkpoints hold its fields.

    >>> guard = Guard()
    >>> guard.judge(float("nan"), 1.0), guard.bad_in_a_row, guard.judge(2.0, 1.0), guard.bad_in_a_row
    ('loss is nan', 1, None, 0)
    """

    mean: float = 0.0
    seen: int = 0
    bad_in_a_row: int = 0

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Why the update must be skipped; None for a good one, whose loss enters the running mean."""
        reason = None
        if not math.isfinite(loss):
            reason = f"loss is {loss}"
        elif not math.isfinite(grad_norm):
            reason = f"gradient norm is {grad_norm}"
        elif self.seen >= MIN_STEPS and loss > SPIKE_RATIO * self.mean:
            reason = f"loss {loss:.3f} is over {SPIKE_RATIO:g} times its running mean {self.mean:.3f}"
        if reason:
            self.bad_in_a_row += 1
            return reason
        self.mean = loss if self.seen == 0 else MEAN_DECAY * self.mean + (1 - MEAN_DECAY) * loss
        self.seen, self.bad_in_a_row = self.seen + 1, 0
        return None


class Update:
    """This process's share of update `step` (from 1): a pure function of seed and step, for any training loop.

    Call `backward()` on each of `losses(module)`, then `row()`. There is one loss per micro-step: a group, or
    `clips_at_once` of its clips, which are mixed and masked together but need not be in memory together.
    """

    def __init__(self, batches: Batches, world: World, step: int) -> None:
        self.batches, self.world, self.step = batches, world, step
        self.share = world.share(batches.recipe.n_groups)
        # Masks need no audio, so this comes before the first forward pass.
        counts = [batches.counts(step, number) for number in self.share]
        self.n_masked, self.n_frames = world.total(torch.tensor(counts, device=world.device).double().sum(0)).tolist()
        recipe = batches.recipe
        self.clips_at_once = recipe.clips_at_once or recipe.group_clips
        self.n_micro_steps = len(self.share) * -(-recipe.group_clips // self.clips_at_once)
        self._sums: dict[str, Tensor] = {}

    def losses(self, module: nn.Module) -> Iterator[Tensor]:
        """Losses of the micro-steps, scaled so that the gradients of all processes add up to that of the mean loss."""
        seed, last = self.batches.recipe.seed, len(self.share) - 1
        for position, number in enumerate(self.share):
            group = self.batches.next_group(self.step, number)
            parts = group.split(self.clips_at_once)
            torch.manual_seed(torch_seed(seed, DROPOUT, self.step, number))
            skip = self.batches.skipped_layers(self.step, position)
            for i, part in enumerate(parts):
                yield self.loss(module, part, skip, position == last and i == len(parts) - 1)

    def loss(self, module: nn.Module, group: Group, skip: tuple[int, ...], last: bool) -> Tensor:
        """Scaled loss of one micro-step; `last` says whether gradients are exchanged in its backward pass."""
        autocast = self.batches.recipe.dtype == "bfloat16"
        with sync_gradients(module, last), torch.autocast(self.world.device.type, torch.bfloat16, enabled=autocast):
            loss, parts = module(group, skip)
        add_parts(self._sums, loss, parts)
        return loss * (self.world.size / self.n_masked)  # DDP and FSDP take means over processes

    def row(self) -> dict[str, Any]:
        """Metrics of the step: means over the masked frames of the batch, summed over all processes in one exchange."""
        flat = self.world.total(torch.cat([part.flatten() for part in self._sums.values()]))
        means = (flat / self.n_masked).tolist()
        row: dict[str, Any] = {}
        for name, part in self._sums.items():
            values, means = means[: part.numel()], means[part.numel() :]
            row |= {name: values[0]} if part.ndim == 0 else {f"{name}_{k}": value for k, value in enumerate(values)}
        return {"step": self.step, "loss": row.pop("loss")} | row | {"masked_share": self.n_masked / self.n_frames}


class Engine:
    """Trains a recipe: `run()` goes from the newest checkpoint, or from the initial weights, to the last step.

    Each step is a function of the recipe, the step's number, and what a checkpoint holds: weights, moments and the
    state of the guard. A run that was stopped therefore resumes bit for bit at the same number of processes, and, if
    no layers are dropped, with the same losses (1e-5) at another.
    """

    def __init__(
        self, recipe: Recipe, corpus: Corpus, teachers: Mapping[str, TargetSource], world: World,
        start: Start | None = None,
    ) -> None:  # fmt: skip
        self.recipe = recipe = recipe.on(world.device)
        self.world = world
        self.share = world.share(recipe.n_groups)
        self.batches = Batches(recipe, corpus, teachers, world.device, self.share)
        codebooks = {name: teacher.codebooks() for name, teacher in teachers.items()} if recipe.codebook_start else {}
        self.objective = new_pretrainer(PretrainerConfig.of(recipe, teachers), codebooks, start)
        if recipe.activation_checkpointing:
            recompute_blocks(self.objective.model)
        if recipe.compile:
            for block in self.objective.model.encoder.blocks:
                block.compile()
        self.module = parallelize(self.objective, world, recipe.parallel).train()
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), lr=recipe.lr, betas=recipe.betas[:2], eps=recipe.eps,  # type: ignore[arg-type]
            weight_decay=recipe.weight_decay, fused=True,
        )  # fmt: skip
        init_moments(self.optimizer)
        self.guard = Guard()
        self.stop = StopRequest()
        self._between_steps = True  # not while an update changes the weights
        self.checkpoints = Checkpoints(Path(recipe.out), world, recipe.keep_checkpoints)
        self.monitor = open_monitor(recipe) if world.rank == 0 else None
        self.facts = facts(corpus, teachers, start.base if start else None)

    def run(self, resume: bool = True, until: int | None = None, allow_changes: bool = False) -> int:
        """Train to the last step (or to `until`); returns the last step done.

        SIGTERM, SIGUSR1, Ctrl-C and `stop.ask()` end it after a step, with a checkpoint; Ctrl-C then raises
        KeyboardInterrupt. UsageError if another run trains into the same folder, or if the recipe is not the one that
        the run began with (more steps are), unless `allow_changes`.
        """
        stop = self.stop
        try:
            done = undisturbed(lambda: self._run_alone(resume, until, allow_changes), stop)
        finally:
            self.stop = StopRequest()
        if stop.interrupted:
            raise KeyboardInterrupt
        return done

    def _run_alone(self, resume: bool, until: int | None, allow_changes: bool) -> int:
        if self.world.device.type == "cuda":
            torch.cuda.set_device(self.world.device)  # each thread has its own
        with only_run(Path(self.recipe.out), self.world.rank):
            if not resume:
                self.checkpoints.remove_all()
            done, changes = self._resume(allow_changes)
            return self._train(done, until or self.recipe.steps, changes)

    def _train(self, done: int, last: int, changes: Sequence[Change]) -> int:
        runlog = RunLog(self.recipe, done, changes, self.world) if self.world.rank == 0 else None
        saved, saved_s, state = done, time.monotonic(), self._state()
        try:
            for step in range(done + 1, last + 1):
                self._record(self.step(step), runlog)
                done, state, self._between_steps = step, self._state(), True
                is_late = time.monotonic() - saved_s > SAVE_S
                stopping, due = self._anyone(self.stop.asked, is_late and self.world.rank == 0)
                if stopping or due or step % self.recipe.checkpoint_every == 0 or step == self.recipe.steps:
                    self.checkpoints.save(step, self.module, self.optimizer, state)
                    saved, saved_s = step, time.monotonic()
                if stopping:
                    log.warning("stopped after step %d; the same command resumes", step)
                    break
        except Exception as error:
            self._rescue(done, saved, state, error)
            raise
        finally:
            self.batches.close()
            if runlog:
                runlog.close()
        return done

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the tensors."""
        return {"guard": asdict(self.guard), **self.facts}

    def _record(self, row: dict[str, Any], runlog: RunLog | None) -> None:
        """Complete the row of a step by what is due after it, and write it: a resume could not add it later."""
        if self.batches.validates(row["step"]):
            metrics = held_out_metrics(self.objective, self.batches, self.world.size == 1)
            row |= {f"valid/{name}": value for name, value in metrics.items()}
            if runlog:
                runlog.print(summary(row["step"], metrics))
        if self.recipe.probes(row["step"]):
            row |= probe_scores(self.module, self.objective.model, self.monitor, self.world)
        if runlog:
            runlog.write_row(row)

    def _rescue(self, done: int, saved: int, state: dict[str, Any], error: Exception) -> None:
        """Save the state after the last step when the next one failed, where that is possible, and say what there is.

        All processes must save together, so if others train too, all must have failed alike. A failed update may have
        changed some of the weights, and a disk that refuses to write does so again.
        """
        alike = self.world.size == 1 or isinstance(error, TrainingError)  # the guard judges sums over all processes
        if done > saved and self._between_steps and alike and not isinstance(error, OutputError):
            self.checkpoints.save(done, self.module, self.optimizer, state)
            saved = done
        if done:
            log.error(
                "step %d failed; %s", done + 1, f"the run goes on after step {saved}" if saved else "nothing is saved"
            )

    def step(self, step: int) -> dict[str, Any]:
        """One update; returns its row of metrics. Losses are means over the masked frames of the whole batch."""
        started = time.perf_counter()
        update = Update(self.batches, self.world, step)
        self.optimizer.zero_grad(set_to_none=True)
        for loss in update.losses(self.module):
            with tf32(self.world.device):
                loss.backward()
        row = update.row()
        if step <= self.recipe.frozen_frontend_steps:
            for parameter in self.objective.model.frontend.parameters():
                parameter.grad = None  # neither moved nor decayed
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.recipe.clip_norm)
        row["grad_norm"] = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        self._apply(step, row)
        return row | self.batches.times(time.perf_counter() - started)

    def _apply(self, step: int, row: dict[str, Any]) -> None:
        """Apply the gradients, unless the guard skips the update; TrainingError after too many skips in a row."""
        for settings in self.optimizer.param_groups:
            settings["lr"] = row["lr"] = self.recipe.lr_at(step)
        reason = self.guard.judge(row["loss"], row["grad_norm"])
        if reason is None:
            self._between_steps = False
            self.optimizer.step()
            return
        row["skipped"] = reason
        log.warning("step %d skipped: %s", step, reason)
        if self.guard.bad_in_a_row >= self.recipe.max_bad_steps:
            path = self._keep_batch(step)
            remedy = f"look at {path}; lower lr, or leave the recordings out"
            raise TrainingError(f"step {step}", f"{self.guard.bad_in_a_row} bad steps in a row ({reason})", remedy)

    def _resume(self, allow_changes: bool) -> tuple[int, list[Change]]:
        if (path := self.checkpoints.newest()) is None:
            return 0, []
        self.facts = continued(path, read_json(path / MARKER)["state"], self.facts)
        changes = changes_after(Path(self.recipe.out), step_of(path), self.recipe, allow_changes)
        step, state = self.checkpoints.load(path, self.module, self.optimizer)
        if all(change.key == "steps" for change in changes):  # after others the loss may be of another size
            self.guard = Guard(**state["guard"])
        log.warning("going on after step %d from %s", step, path)
        for change in changes:
            log.warning("from now on %s", change)
        return step, changes

    def _keep_batch(self, step: int) -> Path:
        path = Path(self.recipe.out) / f"bad_step_{step:08d}_rank_{self.world.rank}.safetensors"
        groups = enumerate(self.batches.group(step, number) for number in self.share)
        with write_whole(path) as temporary:
            save_file({f"wave_{i}": group.wave_BN.cpu().contiguous() for i, group in groups}, temporary)
        return path

    def _anyone(self, *conditions: bool) -> list[bool]:
        """Which of these conditions hold in any process."""
        return (self.world.total(torch.tensor(conditions, dtype=torch.float32, device=self.world.device)) > 0).tolist()


def init_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its AdamW state now: a layer that was dropped so far would have none, and fail to load."""
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter),
        }  # fmt: skip
