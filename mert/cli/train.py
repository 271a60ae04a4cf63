"""The commands that train: `mert pretrain`, `continue-pretrain`, `fit-teacher` and `tokenize`."""

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
from mert.cli.terminal import Executor, Overwrite, counted, progress
from mert.errors import MertError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from mert.train.corpus.base import Corpus
    from mert.train.recipe import Recipe
    from teachers import TargetSource

log = logging.getLogger("mert")
Config = Annotated[str, typer.Argument(help="nano, mert-nano, v0_95m, v1_95m, v1_330m, or a YAML file.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, such as steps=500 mixing.apply_prob=0.")]
Resume = Annotated[
    Literal["auto", "never"], typer.Option(help="auto resumes from the newest checkpoint; never starts anew.")
]
Data = Annotated[str, typer.Argument(help="A folder, manifest, hf:NAME or synth.")]


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


@teachers_explain()
def fit_teacher(
    name: Annotated[str, typer.Argument(help="kmeans, mel_rvq, random_projection or encodec_small.")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the teacher.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the teacher.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Maximum number of recordings to fit to.")] = 1000,
    rate_hz: Annotated[int, typer.Option(min=1000, help="Sample rate.")] = 24_000,
    overwrite: Overwrite = False,
) -> None:
    """Fit a teacher on a sample of a corpus."""
    from mert.train.corpus.opening import open_corpus
    from mert.train.recipe import parse_override
    from teachers import fit_teacher as fit
    from teachers.registry import settings_of

    if (out / "teacher.json").exists() and not overwrite:
        reason = "holds a teacher, on which runs and label stores may depend"
        raise UsageError(out, reason, "give another -o, or --overwrite to replace it")
    values = dict(map(parse_override, settings or []))
    if "sample_rate" in settings_of(name):
        values.setdefault("sample_rate", rate_hz)
    if (asked := values.get("sample_rate", rate_hz)) != rate_hz:
        reason = f"is asked for {asked} Hz, and the music comes at {rate_hz} Hz"
        raise UsageError(f"teacher {name}", reason, f"give --rate-hz {asked}")
    corpus = open_corpus(data, rate_hz, rate_hz, {})
    with progress(transient=True) as bar:
        teacher = fit(name, bar.track(_Waves(corpus, clips), description="recordings"), **values)
    if teacher.sample_rate != rate_hz:
        reason = f"works at {teacher.sample_rate} Hz, and the music came at {rate_hz} Hz"
        raise UsageError(f"teacher {name}", reason, f"give --rate-hz {teacher.sample_rate}")
    teacher.save(out)
    typer.echo(f"{out}: {name}, {teacher.n_classes} classes, fingerprint {teacher.fingerprint[:12]}")


class _Waves:
    """At most so many whole recordings, evenly from a corpus."""

    def __init__(self, corpus: Corpus, clips: int) -> None:
        self.corpus, self.chosen = corpus, range(0, len(corpus), -(-len(corpus) // clips))

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.corpus.read(index, 0, int(self.corpus.lengths[index])) for index in self.chosen)


@teachers_explain()
def tokenize(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the label store.")],
    teacher: Annotated[str, typer.Option(help="A fitted teacher's folder, or a name.")],
    executor: Annotated[Executor, typer.Option(help="Where the work runs.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Ray actors.")] = 1,
    items: Annotated[int | None, typer.Option(min=1, help="Clips of a generator (synth) to take.")] = None,
) -> None:
    """Compute the codes of a corpus once; training reads them with teachers=STORE. Run it again to resume."""
    from torch import from_numpy

    from mert.train.tokenize import TokenizeOptions
    from mert.train.tokenize import tokenize as shards
    from teachers.base import perplexity

    options = TokenizeOptions(data, teacher, str(out), {"n_items": items} if items else {})
    with progress() as bar:
        counts: Any = sum(bar.track(shards(options, executor, workers), description="shards"))
    for k, counts_C in enumerate(counts):
        in_use = perplexity(from_numpy(counts_C).double())
        typer.echo(f"codebook {k}: {counts_C.sum()} codes, {(counts_C > 0).sum()} distinct, perplexity {in_use:.1f}")


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
    from mert.train.corpus.base import FirstRecordings
    from mert.train.corpus.opening import open_corpus

    corpus = open_corpus(recipe.data, recipe.model.sample_rate, recipe.min_samples, recipe.data_options)
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
