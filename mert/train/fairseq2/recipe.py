"""Pretraining by fairseq2: its trainer, gangs and checkpoints around our model, objective, batches and learning rate.

OUT holds the files that our engine writes, `checkpoints/` in fairseq2's format, and `logs/`.
"""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import soundfile  # noqa: F401 - see family.py for the order of these imports
import torch

# isort: split
import fairseq2.recipe.base  # noqa: F401
from fairseq2.error import OperationalError
from fairseq2.gang import set_gangs
from fairseq2.optim.lr_schedulers import LRScheduler
from fairseq2.recipe import config as fs
from fairseq2.recipe.base import Recipe as Fairseq2Recipe
from fairseq2.recipe.base import RecipeContext
from fairseq2.recipe.component import register_component
from fairseq2.recipe.run import run
from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.task import Task, TaskStopException
from fairseq2.trainer import Trainer
from torch.optim import Optimizer

from mert.errors import TrainingError, UsageError
from mert.train.batches import Batches
from mert.train.corpus.base import Corpus
from mert.train.engine import Update
from mert.train.fairseq2.checkpoints import resume_point
from mert.train.fairseq2.family import PRETRAINER, register
from mert.train.fairseq2.unit import HeldOutUnit, PretrainUnit, RecipeLR, Steps
from mert.train.ingredients import facts
from mert.train.initialisation import PretrainerConfig, Start
from mert.train.parallel import World, own_device
from mert.train.recipe import Recipe
from mert.train.resume import changes_after
from mert.train.run_folder import RunLog
from mert.train.signals import undisturbed
from teachers.base import TargetSource


def pretrain(
    recipe: Recipe, corpus: Corpus, teachers: Mapping[str, TargetSource], resume: bool = True,
    start: Start | None = None, allow_changes: bool = False,
) -> int:  # fmt: skip
    """Train to the last step, from the newest undamaged checkpoint; returns the last step done.

    SIGTERM and SIGUSR1 stop the run after a step, with a checkpoint. TrainingError if a checkpoint does not fit the
    recipe, UsageError if `out` holds another run, or one of another recipe (unless `allow_changes`).
    """
    if recipe.frozen_frontend_steps:
        raise UsageError("frozen_frontend_steps", "is not for fairseq2's trainer", "train with our own engine")
    recipe = recipe.on(own_device())
    task = MertRecipe(recipe, corpus, teachers, resume, start, allow_changes)
    logging.getLogger("fairseq2").addFilter(hide_environment)
    try:
        with suppress(TaskStopException):  # every run ends so: see Pretraining
            run(task, sections(recipe), Path(recipe.out), no_rich=True, no_progress=True)
    except OperationalError as error:  # how fairseq2 reports errors of disks and networks
        reason = f"fairseq2 stopped ({error.__cause__ or error})"
        raise TrainingError(recipe.out, reason, "mend that; the same command goes on") from error
    return task.done


def hide_environment(record: logging.LogRecord) -> bool:
    """Keep fairseq2 from logging all environment variables, with the tokens and passwords that some of them hold."""
    return not record.getMessage().startswith("Environment Variables")


@dataclass(kw_only=True)
class Sections:
    """The configuration sections of fairseq2, which looks them up by these names."""

    model: fs.ModelSection
    gang: fs.GangSection
    trainer: fs.TrainerSection
    optimizer: fs.OptimizerSection
    lr_scheduler: fs.LRSchedulerSection
    regime: fs.RegimeSection
    common: fs.CommonSection


def sections(recipe: Recipe) -> Sections:
    """A recipe in fairseq2's terms."""
    adamw = fs.AdamWConfig(
        lr=recipe.lr, betas=(recipe.betas[0], recipe.betas[1]), eps=recipe.eps, weight_decay=recipe.weight_decay,
        impl="fused",
    )  # fmt: skip
    recompute: Literal["layerwise", "off"] = "layerwise" if recipe.activation_checkpointing else "off"
    n_threads = None if "OMP_NUM_THREADS" in os.environ else torch.get_num_threads()
    return Sections(
        model=fs.ModelSection(family=PRETRAINER, arch="recipe", compile=recipe.compile),
        gang=fs.GangSection(),
        trainer=fs.TrainerSection(
            data_parallelism=recipe.parallel,  # type: ignore[arg-type]
            # `Update` applies autocast, to the model alone. Static precision breaks validation under FSDP2.
            mixed_precision=fs.MixedPrecisionConfig(mode="off"),
            # `Update` also accumulates without exchange: fairseq2's way calls a method that FSDP2 does not have.
            grad_accumulation=fs.GradAccumulationConfig(num_batches=1, no_sync=False),
            activation_checkpointing=fs.ActivationCheckpointingConfig(mode=recompute),
            max_grad_norm=recipe.clip_norm,
        ),
        optimizer=fs.OptimizerSection(config=adamw),
        lr_scheduler=fs.LRSchedulerSection(name="recipe", config=None),
        # No num_steps: with it, requests to stop are ignored. `Pretraining` also requests the stop at the last step.
        regime=fs.RegimeSection(
            validate_every_n_steps=recipe.validate_every, checkpoint_every_n_steps=recipe.checkpoint_every,
            keep_last_n_checkpoints=recipe.keep_checkpoints, publish_metrics_every_n_steps=1,
        ),
        common=fs.CommonSection(
            seed=recipe.seed,
            no_sweep_dir=True,  # else every changed option would start a new run in another folder
            torch=fs.TorchConfig(num_threads=n_threads, allow_tf32=False),  # torch's own settings
            metric_recorders=fs.MetricRecordersConfig(  # `RunLog` writes TensorBoard's
                tensorboard=fs.TensorBoardConfig(enabled=False), wandb=fs.WandbConfig(enabled=False)
            ),
        ),
    )  # fmt: skip


class MertRecipe(Fairseq2Recipe):
    """The recipe object that fairseq2 runs."""

    def __init__(
        self, recipe: Recipe, corpus: Corpus, teachers: Mapping[str, TargetSource], resume: bool, start: Start | None,
        allow_changes: bool,
    ) -> None:  # fmt: skip
        self.recipe, self.corpus, self.teachers, self.resume, self.start = recipe, corpus, teachers, resume, start
        self.allow_changes = allow_changes
        self.done = 0

    @property
    def config_kls(self) -> type[object]:
        return Sections

    def has_static_autograd_graph(self, context: RecipeContext) -> bool:
        """Dropped layers leave their parameters out of a step."""
        return self.recipe.model.layer_drop == 0

    def register(self, container: DependencyContainer) -> None:
        """Register the model of this recipe and its learning rate; log only warnings to the screen."""
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING)
        register(container)
        ConfigRegistrar(container, PretrainerConfig)("recipe")(lambda: PretrainerConfig.of(self.recipe, self.teachers))
        register_component(
            container, LRScheduler, "recipe", NoneType,
            lambda resolver, config: RecipeLR(resolver.resolve(Optimizer), self.recipe),
        )  # fmt: skip

    def create_task(self, context: RecipeContext) -> Task:
        """A trainer that starts from the newest checkpoint, with its unit and reader."""
        recipe, root = self.recipe, context.gangs.root
        world = World(root.rank, root.size, context.device)
        world.share(recipe.n_groups)  # UsageError if the groups cannot be shared evenly
        out = Path(recipe.out)
        self.done = resume_point(out, self.made_of(), self.fixed(world), world, self.resume)
        changes = changes_after(out, self.done, recipe, self.allow_changes) if self.done else []
        world.barrier()
        batches = Batches(recipe, self.corpus, self.teachers, world.device)
        objective: Any = context.get_model()
        runlog = RunLog(recipe, self.done, changes, world) if world.rank == 0 else None
        unit = PretrainUnit(context.get_data_parallel_model(), batches, world, runlog)
        held_out = [HeldOutUnit(unit, objective)] if batches.n_held_out else None
        readers = [Steps(1, 0)] if batches.n_held_out else None
        steps = Steps(Update(batches, world, 1).n_micro_steps, recipe.steps)
        trainer = context.create_trainer(unit, steps, held_out, readers)
        return Pretraining(self, trainer, unit, context)

    def made_of(self) -> dict[str, Any]:
        """The facts of the run that our engine records, too."""
        return facts(self.corpus, self.teachers, self.start.base if self.start else None)

    def fixed(self, world: World) -> dict[str, Any]:
        """What fairseq2 cannot change when a run resumes."""
        kept = {name: getattr(self.recipe, name) for name in ("parallel", "steps", "warmup_steps", "lr")}
        return {"processes": world.size, "model": self.recipe.model.to_dict(), **kept}


class Pretraining(Task):
    """The trainer, stopped by the unit: at the last step, or after the step in which any process got a signal."""

    def __init__(self, recipe: MertRecipe, trainer: Trainer, unit: PretrainUnit, context: RecipeContext) -> None:
        self.recipe, self.trainer, self.unit, self.gangs = recipe, trainer, unit, context.gangs
        unit.stop = trainer.request_stop

    def run(self) -> None:
        """Train, unless all steps are done already."""
        if self.recipe.done >= self.recipe.recipe.steps:
            self.gangs.close()
            return
        stop = self.unit.stop_request
        try:
            undisturbed(self._run_trainer, stop)
        finally:
            self.recipe.done = self.trainer.step_nr
        if stop.interrupted:
            raise KeyboardInterrupt

    def _run_trainer(self) -> None:
        """Train in the thread that calls this."""
        with set_gangs(self.gangs):  # each thread has its own
            if self.gangs.root.device.type == "cuda":
                torch.cuda.set_device(self.gangs.root.device)
            self.trainer.run()

    def request_stop(self) -> None:
        """fairseq2 calls this where it takes SIGUSR1 itself."""
        self.unit.stop_request.ask()

    @property
    def step_nr(self) -> int:
        return self.trainer.step_nr

    def close(self) -> None:
        """Close the records."""
        self.trainer.close()
        self.unit.batches.close()
        if self.unit.runlog:
            self.unit.runlog.close()
