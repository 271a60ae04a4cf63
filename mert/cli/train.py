"""The commands that train: `mert pretrain`, `continue-pretrain` and `fit-teacher`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mert.cli.terminal import Executor
from mert.errors import MertError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from mert.train.corpus import Corpus
    from mert.train.recipe import Recipe

Config = Annotated[str, typer.Argument(help="nano, mert-nano, v0_95m, v1_95m, v1_330m, or a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as steps=500 mixing.apply_prob=0.")]


class Trainer(StrEnum):
    torch = "torch"
    fairseq2 = "fairseq2"


@contextmanager
def teachers_explain() -> Iterator[None]:
    """Teachers know nothing of mert: their errors become mert's, one line for the user."""
    from teachers import TeacherError

    try:
        yield
    except TeacherError as error:
        raise MertError(error.source, error.reason, error.remedy) from error


@teachers_explain()
def pretrain(
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[str, typer.Option(help="auto goes on from the newest checkpoint; never starts anew.")] = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the recipe and one step, write nothing.")] = False,
    overfit: Annotated[int | None, typer.Option(min=1, help="Train on these few clips only.")] = None,
    engine: Annotated[Trainer, typer.Option(help="Our own engine on torch, or fairseq2's trainer.")] = Trainer.torch,
) -> None:
    """Train a MERT. Start it under torchrun for many processes; stop it with SIGTERM and the same command goes on."""
    from mert.train.recipe import read_recipe

    recipe = read_recipe(config, overrides or [])
    if engine is Trainer.fairseq2 and not dry_run:  # a dry run's step is the same
        _train_by_fairseq2(recipe, resume, overfit)
    else:
        _train(recipe, None, resume, dry_run, overfit)


@teachers_explain()
def continue_pretrain(
    name: Annotated[str, typer.Argument(help="A model folder, or a name on the hub.")],
    config: Config,
    overrides: Overrides = None,
    resume: Annotated[str, typer.Option(help="auto or never, as in pretrain.")] = "auto",
) -> None:
    """Train on from the weights of a published model; heads begin anew."""
    from dataclasses import replace

    from mert.embedding.load import load
    from mert.train.recipe import read_recipe

    model = load(name, device="cpu").model.requires_grad_(True)
    recipe = replace(read_recipe(config, overrides or []), model=model.config)
    _train(recipe, model, resume, False, None)


@teachers_explain()
def fit_teacher(
    name: Annotated[str, typer.Argument(help="kmeans, mel_rvq or encodec_small.")],
    data: Annotated[str, typer.Argument(help="A folder, manifest, hf:NAME or synth.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the teacher.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the teacher.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Recordings to listen to at most.")] = 1000,
    rate_hz: Annotated[int, typer.Option(help="Sample rate.")] = 24_000,
) -> None:
    """Fit a teacher on a sample of a corpus."""
    from inspect import Parameter, signature

    import yaml

    from mert.train.corpus import open_corpus
    from teachers import fit_teacher as fit
    from teachers.registry import teacher_class

    values = {key: yaml.safe_load(text) for key, _, text in (item.partition("=") for item in settings or [])}
    parameters = signature(getattr(teacher_class(name), "fit", fit)).parameters
    if any(key == "sample_rate" or word.kind is Parameter.VAR_KEYWORD for key, word in parameters.items()):
        values.setdefault("sample_rate", rate_hz)
    if (asked := values.get("sample_rate", rate_hz)) != rate_hz:
        reason = f"is asked for {asked} Hz, and the music comes at {rate_hz} Hz"
        raise UsageError(f"teacher {name}", reason, f"give --rate-hz {asked}")
    corpus = open_corpus(data, rate_hz, rate_hz, {})
    teacher = fit(name, _waves(corpus, clips), **values)
    if teacher.sample_rate != rate_hz:
        reason = f"hears {teacher.sample_rate} Hz, and the music came at {rate_hz} Hz"
        raise UsageError(f"teacher {name}", reason, f"give --rate-hz {teacher.sample_rate}")
    teacher.save(out)
    typer.echo(f"{out}: {name}, {teacher.n_classes} classes, fingerprint {teacher.fingerprint[:12]}")


def _waves(corpus: Corpus, clips: int) -> Iterator[np.ndarray]:
    step = -(-len(corpus) // clips)
    for index in range(0, len(corpus), step):
        yield corpus.read(index, 0, corpus.n_samples(index))


@teachers_explain()
def tokenize(
    data: Annotated[str, typer.Argument(help="A folder, manifest, hf:NAME or synth.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the label store.")],
    teacher: Annotated[str, typer.Option(help="A fitted teacher's folder, or a name.")],
    executor: Annotated[Executor, typer.Option(help="Where the work runs.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Ray actors.")] = 1,
    items: Annotated[int | None, typer.Option(min=1, help="Clips of a generator (synth) to take.")] = None,
) -> None:
    """Make the codes of a corpus once; training reads them with teachers=STORE. Run it again to go on."""
    from rich.progress import Progress

    from mert.train.tokenize import TokenizeOptions, perplexities
    from mert.train.tokenize import tokenize as shards

    options = TokenizeOptions(data, teacher, str(out), {"n_items": items} if items else {})
    counts: Any = 0
    with Progress() as progress:
        task = progress.add_task("shards", total=None)
        for shard in shards(options, executor, workers):
            counts = counts + shard
            progress.advance(task)
    for k, (perplexity, used) in enumerate(zip(perplexities(counts), (counts > 0).sum(axis=1), strict=True)):
        typer.echo(f"codebook {k}: {counts[k].sum()} codes, {used} of them different, perplexity {perplexity:.1f}")


def _train(recipe: Recipe, model: Any, resume: str, dry_run: bool, overfit: int | None) -> None:
    from mert.train.batches import load_teachers
    from mert.train.engine import Engine
    from mert.train.parallel import World

    _check_resume(resume)
    world = World.join()
    try:
        corpus = _corpus(recipe, overfit)
        engine = Engine(recipe, corpus, load_teachers(recipe.teachers), world, model)
        if dry_run:
            _show(recipe, engine, corpus)
            return
        step = engine.run(resume == "auto")
        if world.rank == 0:
            typer.echo(f"{recipe.out}: step {step} of {recipe.steps}, metrics.jsonl, curves.png")
    finally:
        world.leave()


def _train_by_fairseq2(recipe: Recipe, resume: str, overfit: int | None) -> None:
    from importlib.util import find_spec

    from mert.errors import UsageError
    from mert.train.batches import load_teachers

    _check_resume(resume)
    if find_spec("fairseq2") is None:
        raise UsageError("--engine fairseq2", "fairseq2 is not installed", 'pip install -e ".[fairseq2]"')
    from mert.train.fairseq2.recipe import pretrain

    step = pretrain(recipe, _corpus(recipe, overfit), load_teachers(recipe.teachers), resume == "auto")
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"{recipe.out}: step {step} of {recipe.steps}, metrics.jsonl, curves.png")


def _check_resume(resume: str) -> None:
    from mert.errors import UsageError

    if resume not in ("auto", "never"):
        raise UsageError(f"--resume {resume}", "unknown", "give auto or never")


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
        f"{len(corpus)} recordings, {parameters / 1e6:.2f} M parameters with heads, {hours:.1f} h of audio in all; "
        f"first step: loss {row['loss']:.3f}, {row['masked_share']:.3f} of the frames masked, {row['seconds']:.2f} s"
    )
