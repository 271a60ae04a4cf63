"""The commands `mert bench run`, `ls` and `validate`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mert.cli.terminal import HeadKind, Precision
from mir_benchmarks.tasks.options import SUITE_SWITCHES, TINY_EPOCHS, Suite
from probes.cli import chosen_device, grid_of

if TYPE_CHECKING:
    from mir_benchmarks.tasks.registry import TaskSpec


class Context(StrEnum):
    window = "window"
    training = "training"


Numbers = Annotated[str | None, typer.Option(help="Comma-separated; default: the published grid.")]


def ls() -> None:
    """List the tasks: official counts, where the data goes, protocol switches (the first is the default)."""
    from rich.console import Console
    from rich.table import Column, Table

    from mir_benchmarks.tasks.registry import TASKS

    columns = (Column(name, no_wrap=True) for name in ("task", "train/valid/test", "folder"))
    table = Table(*columns, Column("switches", overflow="fold"), box=None)
    for task in TASKS.values():
        counts = "/".join(f"{n:,}" for n in task.counts) if any(task.counts) else "as on disk"
        switches = " ".join(f"{name}={'|'.join(values)}" for name, values in task.switches.items())
        table.add_row(task.name, counts, task.corpus + "/", switches)
    Console(highlight=False).print(table)


def run(
    model: Annotated[str, typer.Option("--model", "-m", help="Name, folder, log-mel, mfcc, cqt-chroma, random-nano.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for this model's results.", file_okay=False)],
    tasks: Annotated[str, typer.Option("--tasks", "-t", help='"all", or names: gtzan_genre,emomusic.')] = "all",
    data_home: Annotated[Path | None, typer.Option(help="Folder with a folder for each corpus.")] = None,
    suite: Annotated[Suite | None, typer.Option(help="Run on synthetic data, generated where it is missing.")] = None,
    layers: Annotated[str | None, typer.Option(help='Names or "all" (weighted); default: each, and "all".')] = None,
    lrs: Numbers = None,
    seeds: Numbers = None,
    head: Annotated[HeadKind, typer.Option(help="512 hidden units, or none.")] = "mlp",
    switches: Annotated[list[str] | None, typer.Option("--set", help="A protocol switch: beat_tol=0.02.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Items of each split; marks the result.")] = None,
    context: Annotated[Context, typer.Option(help="Hear a window at once, or in training contexts.")] = Context.window,
    dtype: Annotated[Precision, typer.Option(help="Of the model's computation.")] = "float32",
    features: Annotated[Path | None, typer.Option(help="Where features are kept; default: OUT/features.")] = None,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Fewer than the task's own.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not scale features by the training split.")] = False,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
) -> None:
    """Probe a model on tasks: features once, every layer and rate, chosen on validation, tested once."""
    from mert.errors import MertError, UsageError
    from mir_benchmarks.tasks.options import Options
    from mir_benchmarks.tasks.run import run_task
    from probes.encoders import load_encoder

    chosen = tasks_of(tasks)
    if data_home is None and suite is None:
        raise UsageError("mert bench run", "there is no data", "give --data-home D, or --suite tiny")
    framewise = [task.name for task in chosen if task.kind in ("beats", "separation")]
    if head == "linear" and framewise:
        raise UsageError("--head linear", f"{framewise[0]} has a head of its own", "name tasks with a label a clip")
    device = chosen_device(device)
    home = data_home or out / f"suite-{suite}"
    if suite is None:
        refuse_missing(chosen, home)
    encoder = load_encoder(model, context.value, device, revision, dtype)
    options = Options(
        layers=tuple(layers.split(",")) if layers else None, hidden=512 if head == "mlp" else 0,
        max_epochs=max_epochs or (TINY_EPOCHS if suite is Suite.tiny else None), standardize=not raw, limit=limit,
        device=device,
        protocol=(SUITE_SWITCHES[suite] if suite else {}) | switches_of(chosen, switches or []),
        **grid_of(lrs, seeds),
    )  # fmt: skip
    options.grid(encoder.facts.layer_names)
    if suite is not None:
        generate(home, suite, {task.corpus for task in chosen})
    failed = 0
    for task in chosen:
        try:
            with callbacks(task) as shown:
                path = run_task(task, encoder, home=home, out=out, features=features, options=options, **shown)
            typer.echo(line_of(path))
        except MertError as error:
            failed += 1
            typer.echo(f"error: {error}", err=True)
    if failed:
        typer.echo(f"{failed} of {len(chosen)} tasks failed; run the same command again to go on", err=True)
        sys.exit(1)


def validate(folder: Annotated[Path, typer.Argument(help="What `mert bench run -o` wrote.", file_okay=False)]) -> None:
    """Compute every number of a folder of results again from the outputs beside it."""
    from mert.errors import OutputError
    from mir_benchmarks.statistics import summarise
    from mir_benchmarks.tasks.registry import TASKS
    from probes.results import Result, load_outputs

    paths = [path for name in TASKS if (path := folder / f"{name}.json").exists()]
    if not paths:
        raise OutputError(folder, "holds no results", "run `mert bench run -o` into it")
    for path in paths:
        result = Result.load(path)
        metrics, score = summarise(load_outputs(path), tuple(result.metrics), result.protocol)
        for name, value in (metrics | {"score": score}).items():
            stored = result.score if name == "score" else result.metrics[name]
            for key, computed in value.items():
                if not same(stored.get(key), computed):
                    reason = f"the {key} of {name} is {computed} by its outputs, not {stored.get(key)}"
                    raise OutputError(path, reason, "run the task again")
        typer.echo(f"{path}: {len(metrics)} metrics of {score['n']} items agree with the outputs")


def same(stored: Any, computed: Any) -> bool:
    """Whether two numbers, or two lists of them, are equal to four places."""
    import numpy as np

    return np.shape(stored) == np.shape(computed) and bool(
        np.allclose(np.array(stored, float), computed, rtol=0, atol=1e-4, equal_nan=True)
    )


def tasks_of(names: str) -> list[TaskSpec]:
    """Tasks by name, "all" for the 14."""
    from mert.errors import UsageError
    from mir_benchmarks.tasks.registry import TASKS

    wanted = list(TASKS) if names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in TASKS]:
        raise UsageError("-t", f"no task {unknown[0]}", f"give all, or some of {', '.join(TASKS)}")
    return [TASKS[name] for name in wanted]


def refuse_missing(tasks: list[TaskSpec], home: Path) -> None:
    """TaskError before any work if a dataset is not there, with what to get."""
    from mir_benchmarks.datasets.dataset import TaskError

    missing = {task.corpus: task for task in tasks if not (home / task.corpus).is_dir()}
    for corpus, task in missing.items():
        typer.echo(f"{home / corpus}: {task.get}", err=True)
    if missing:
        raise TaskError(home, f"{len(missing)} datasets are missing", "put them there, or name other tasks")


def switches_of(tasks: list[TaskSpec], pairs: list[str]) -> dict[str, str]:
    """Protocol switches from "name=value"; UsageError for names and values that no chosen task has."""
    from mert.errors import UsageError

    known = {name for task in tasks for name in task.switches}
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name not in known:
            raise UsageError("--set", f"{pair!r} is no switch of these tasks", f"give {', '.join(sorted(known))}=...")
        for options in (task.switches[name] for task in tasks if name in task.switches):
            if value not in options:
                raise UsageError("--set", f"{name} cannot be {value!r}", f"give one of {', '.join(options)}")
        values[name] = value
    return values


def generate(home: Path, suite: Suite, corpora: set[str]) -> None:
    """Write what is missing of a synthetic suite."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from mir_benchmarks.suite.write import write_suite
    from probes.clip_probe import n_cores

    console = Console(highlight=False, markup=False, stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as bar:
        rows = {name: bar.add_task(f"generate {name}", total=None) for name in sorted(corpora)}

        def tell(name: str, done: int, total: int) -> None:
            bar.update(rows[name], completed=done, total=total)

        write_suite(home, suite.value, workers=n_cores(), corpora=sorted(corpora), tell=tell)


@contextmanager
def callbacks(task: TaskSpec) -> Iterator[dict[str, Callable[..., None]]]:
    """Callbacks of `run_task` that move progress bars."""
    from mert.cli.terminal import console, progress

    stderr = console(stderr=True)
    with progress(stderr, transient=True) as bar:
        extracting = bar.add_task(f"{task.name}: extract", total=None)
        fitting = bar.add_task(f"{task.name}: fit", total=None)
        yield {
            "on_clip": lambda extracted, total: bar.update(extracting, advance=1, total=total),
            "on_fit": lambda row, total: bar.update(fitting, advance=1, total=total),
            "on_message": lambda line: stderr.print(f"{task.name}: {line}"),
        }


def line_of(path: Path) -> str:
    """One result on one line."""
    from probes.metrics import METRICS, score_parts
    from probes.results import Result

    result = Result.load(path)
    low, high = result.score["ci95"]
    unit = METRICS[score_parts(tuple(result.metrics), result.protocol)[0]].unit.removeprefix("points")
    mark = " (limited: not comparable)" if result.limit else ""
    return (
        f"{result.task['name']:20} {result.score['mean']:6.2f}{unit} [{low:.2f}, {high:.2f}] n={result.score['n']} "
        f"{result.layer} lr={result.lr:g} {result.task['data']} data, {result.seconds:.0f} s{mark}"
    )
