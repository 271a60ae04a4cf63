"""The commands that train: `mert pretrain` and `continue-pretrain`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from mert.cli.terminal import counted, printable, progress
from mert.errors import MertError

if TYPE_CHECKING:
    from mert.train.corpus.base import Corpus
    from mert.train.corpus.sources import Listed
    from mert.train.initialisation import Start
    from mert.train.parallel import World
    from mert.train.recipe import Recipe
    from teachers import TargetSource

log = logging.getLogger("mert")
Config = Annotated[str, typer.Argument(help="adapt, nano, v0_95m, v1_95m, v1_330m, mert-nano, mert-nano-1, or a file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as steps=500 mixing.apply_prob=0.")]
Resume = Annotated[
    Literal["auto", "never"], typer.Option(help="auto resumes from the newest checkpoint; never starts anew.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the recipe and one step, write nothing.")]
Overfit = Annotated[int | None, typer.Option(min=1, help="Train on the first clips only, so many.")]
AllowChanges = Annotated[
    bool, typer.Option("--allow-changes", help="Go on with another recipe than the run began with, and record that.")
]
TrainingEngine = Annotated[
    Literal["torch", "fairseq2"], typer.Option("--engine", help="Our own engine on torch, or fairseq2's trainer.")
]


@contextmanager
def teachers_explain() -> Iterator[None]:
    """Turn a TeacherError, whose package does not import mert, into a MertError: one line for the user."""
    from teachers import TeacherError

    try:
        yield
    except TeacherError as error:
        raise MertError(error.source, error.reason, error.remedy) from error


@teachers_explain()
def pretrain(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = "auto",
    dry_run: DryRun = False,
    overfit: Overfit = None,
    allow_changes: AllowChanges = False,
    engine: TrainingEngine = "torch",
) -> None:
    """Train a MERT, from nothing or on from init=NAME. Stop it with SIGTERM or Ctrl-C; the same command resumes."""
    from mert.train.parallel import World

    plan = _plan(config, overrides or [], resume == "auto")
    if engine == "fairseq2" and not dry_run:  # a dry run's step is the same
        _train_by_fairseq2(plan, resume, overfit, allow_changes)
        return
    world = World.join()
    try:
        world.share(plan.recipe.n_groups)
        _train(plan, world, resume, dry_run, overfit, allow_changes)
    finally:
        world.leave()


def continue_pretrain(
    name: Annotated[str, typer.Argument(help="A model by name or folder, a run, or a fairseq .pt file.")],
    config: Config = "adapt",
    overrides: Overrides = None,
    resume: Resume = "auto",
    dry_run: DryRun = False,
    overfit: Overfit = None,
    allow_changes: AllowChanges = False,
    engine: TrainingEngine = "torch",
) -> None:
    """Train on from the weights of a model: short for `mert pretrain CONFIG init=NAME`."""
    pretrain(config, [*(overrides or []), f"init={json.dumps(name)}"], resume, dry_run, overfit, allow_changes, engine)


def load_teachers(names: Sequence[str], sample_rate: int = 24_000) -> dict[str, TargetSource]:
    """The teachers of a recipe by the keys of their heads; a warning names a licence that the model inherits."""
    from mert.train.ingredients import keyed
    from mert.weights.licences import is_non_commercial
    from teachers import load_teacher

    teachers = [load_teacher(name, sample_rate) for name in names]
    for name, teacher in zip(names, teachers, strict=True):
        if is_non_commercial(teacher.licence):
            log.warning("%s is under %s; a model trained on its targets inherits this", name, teacher.licence)
    return keyed(teachers)


class Plan(NamedTuple):
    """What a run is to do, as known before its music is opened."""

    recipe: Recipe
    start: Start | None
    teachers: dict[str, TargetSource]


def _plan(config: str, overrides: Sequence[str], resume: bool) -> Plan:
    from mert.train.fairseq2 import load_run
    from mert.train.start import read_plan

    recipe, start = read_plan(config, overrides, load_run, resume)
    return Plan(recipe, start, load_teachers(recipe.teachers, recipe.model.sample_rate))


def _train(plan: Plan, world: World, resume: str, dry_run: bool, overfit: int | None, allow_changes: bool) -> None:
    from mert.train.engine import Engine

    recipe = replace(plan.recipe, validate_clips=0) if overfit else plan.recipe
    corpus = _corpus(recipe, overfit, None if dry_run else Path(recipe.out))
    engine = Engine(recipe, corpus, plan.teachers, world, plan.start)
    if world.rank == 0 and plan.start:
        typer.echo(f"{recipe.out}: {_beginning(plan, engine)}")
    if dry_run:
        _show(engine.recipe, engine, corpus)
        return
    if world.rank == 0:
        typer.echo(f"{recipe.out}: {_split(engine, corpus)}")
        typer.echo(f"{recipe.out}: {recipe.steps} steps on {recipe.data}; SIGTERM stops it, this command resumes")
    step = engine.run(resume == "auto", allow_changes=allow_changes)
    if world.rank == 0:
        _report(recipe, step)


def _split(engine: Any, corpus: Corpus) -> str:
    """Which recordings a run trains on, and which are held out."""
    draw, shown = engine.batches.draw, 5
    names = [printable(corpus.name(index)) for index in draw.held_out[:shown]]
    more = f" and {len(draw.held_out) - shown} more" if len(draw.held_out) > shown else ""
    held_out = f"; held out: {', '.join(names)}{more}" if names else ", none held out"
    return f"{counted(draw.n_training, 'recording')} to train on{held_out}"


def _beginning(plan: Plan, engine: Any) -> str:
    """Which weights a run goes on from, and which heads are kept."""
    from mert.train.ingredients import described
    from mert.train.initialisation import PretrainerConfig, kept_heads

    assert plan.start
    kept = kept_heads(PretrainerConfig.of(plan.recipe, plan.teachers), engine.objective, plan.start)
    new = [name for name in plan.teachers if name not in kept]
    heads = (f"heads of {', '.join(names)} {what}" for names, what in ((kept, "kept"), (new, "new")) if names)
    return f"on from {described(plan.start.base)}, {plan.start.base['licence']}; {'; '.join(heads)}"


def _train_by_fairseq2(plan: Plan, resume: str, overfit: int | None, allow_changes: bool) -> None:
    from mert.train.fairseq2 import pretrain as train
    from mert.train.run_folder import only_run

    recipe, start, teachers = plan
    rank = int(os.environ.get("RANK", "0"))
    with only_run(Path(recipe.out), rank):
        corpus = _corpus(recipe, overfit, Path(recipe.out))
        step = train(recipe, corpus, teachers, resume == "auto", start, allow_changes)
    if rank == 0:
        _report(recipe, step)


def _report(recipe: Recipe, step: int) -> None:
    typer.echo(f"{recipe.out}: step {step} of {recipe.steps}, metrics.jsonl, curves.png")


def _corpus(recipe: Recipe, overfit: int | None, folder: Path | None) -> Corpus:
    """The corpus of a recipe; an index of its headers is kept in `folder`."""
    from mert.train.corpus.base import FirstRecordings
    from mert.train.corpus.opening import open_corpus

    size = recipe.model.sample_rate, recipe.min_samples
    with progress(transient=True) as bar:

        def track(listed: Sequence[Listed]) -> Iterable[Listed]:
            return bar.track(listed, description="reading headers")

        corpus = open_corpus(
            recipe.data, *size, recipe.data_options, folder, recipe.data_weights, track,
            recipe.augmentation.longest_s(recipe.clip_s),
        )  # fmt: skip
    return FirstRecordings(corpus, overfit) if overfit else corpus


def _show(recipe: Recipe, engine: Any, corpus: Corpus) -> None:
    import yaml

    row = engine.step(1)
    parameters = sum(p.numel() for p in engine.objective.parameters())
    hours = recipe.batch_clips * recipe.clip_s * recipe.steps / 3600
    typer.echo(yaml.safe_dump(recipe.to_dict(), sort_keys=False))
    typer.echo(
        f"{counted(len(corpus), 'recording')}, {parameters / 1e6:.2f} M parameters with heads, {hours:.1f} h of audio "
        f"in all; first step: loss {row['loss']:.3f}, {row['masked_share']:.3f} of the frames masked, "
        f"{row['seconds']:.2f} s"
    )
