"""The commands that train: `mert pretrain` and `continue-pretrain`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import mert
from mert.cli.terminal import counted
from mert.errors import MertError, UsageError

if TYPE_CHECKING:
    from mert.train.corpus import Corpus
    from mert.train.recipe import Recipe
    from teachers import TargetSource

log = logging.getLogger("mert")
Config = Annotated[str, typer.Argument(help="nano, mert-nano, v0_95m, v1_95m, v1_330m, or a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as steps=500 mixing.apply_prob=0.")]
Resume = Annotated[
    Literal["auto", "never"], typer.Option(help="auto resumes from the newest checkpoint; never starts anew.")
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the recipe and one step, write nothing.")] = False,
    overfit: Annotated[int | None, typer.Option(min=1, help="Train on the first clips only, so many.")] = None,
    engine: Annotated[
        Literal["torch", "fairseq2"], typer.Option(help="Our own engine on torch, or fairseq2's trainer.")
    ] = "torch",
) -> None:
    """Train a MERT. Start it under torchrun for many processes; stop it with SIGTERM, and the same command resumes."""
    from mert.train.recipe import read_recipe

    recipe = read_recipe(config, overrides or [])
    if engine == "fairseq2" and not dry_run:  # a dry run's step is the same
        from mert.train.fairseq2 import pretrain as train
        from mert.train.run_folder import only_run

        rank = int(os.environ.get("RANK", "0"))
        with only_run(Path(recipe.out), rank):
            step = train(recipe, _corpus(recipe, overfit), load_teachers(recipe.teachers), resume == "auto")
        if rank == 0:
            _report(recipe, step)
    else:
        _train(recipe, None, resume, dry_run, overfit)


@teachers_explain()
def continue_pretrain(
    name: Annotated[str, typer.Argument(help="A model folder, or a name on the hub.")],
    config: Config,
    overrides: Overrides = None,
    resume: Resume = "auto",
) -> None:
    """Train on from the weights of a published model; heads begin anew."""
    from mert.train.recipe import read_recipe

    model = mert.load(name, device="cpu").model.requires_grad_(True)
    recipe = replace(read_recipe(config, overrides or []), model=model.config)
    _train(recipe, model, resume, False, None)


def load_teachers(names: Sequence[str]) -> dict[str, TargetSource]:
    """The teachers of a recipe, keyed by their own names; a warning names a licence that the model inherits."""
    from teachers import load_teacher

    teachers: dict[str, TargetSource] = {}
    for name in names:
        teacher = load_teacher(name)
        if teacher.name in teachers:
            raise UsageError(f"teachers={','.join(names)}", f"names {teacher.name} twice", "name each teacher once")
        teachers[teacher.name] = teacher
        if "NC" in teacher.licence:
            log.warning("%s is under %s; a model trained on its targets inherits this", name, teacher.licence)
    return teachers


def _train(recipe: Recipe, model: Any, resume: str, dry_run: bool, overfit: int | None) -> None:
    from mert.train.engine import Engine
    from mert.train.parallel import World

    world = World.join()
    try:
        corpus = _corpus(recipe, overfit)
        engine = Engine(recipe, corpus, load_teachers(recipe.teachers), world, model)
        if dry_run:
            _show(recipe, engine, corpus)
            return
        if world.rank == 0:
            typer.echo(f"{recipe.out}: {recipe.steps} steps on {recipe.data}; SIGTERM stops it, this command resumes")
        step = engine.run(resume == "auto")
        if world.rank == 0:
            _report(recipe, step)
    finally:
        world.leave()


def _report(recipe: Recipe, step: int) -> None:
    typer.echo(f"{recipe.out}: step {step} of {recipe.steps}, metrics.jsonl, curves.png")


def _corpus(recipe: Recipe, overfit: int | None) -> Corpus:
    from mert.train.corpus import FirstClips, open_corpus

    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.clip_samples, recipe.data_options)
    return FirstClips(corpus, overfit) if overfit else corpus


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
