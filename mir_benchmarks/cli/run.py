"""The commands that run tasks: `mert bench run`, and `ls`, which lists them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mert.cli.terminal import Device, HeadKind, Numbers, Overwrite, Precision, Revision, check_device, console, progress
from mert.errors import MertError, UsageError
from mir_benchmarks.cli.options import MODELS, Context, Rules, Suite, tasks_of, words_of

if TYPE_CHECKING:
    from mir_benchmarks.tasks.registry import TaskSpec


def ls() -> None:
    """List the tasks: official counts, where the data goes, protocol switches (the first is the default)."""
    from mir_benchmarks.tasks.registry import TASKS

    typer.echo(f"{'task':20} {'train/valid/test':21} folder")
    for task in TASKS.values():
        counts = "/".join(f"{n:,}" for n in task.counts) if any(task.counts) else "as on disk"
        typer.echo(f"{task.name:20} {counts:21} {task.corpus}/")
        for name, values in task.switches.items():
            typer.echo(f"    --set {name}={'|'.join(values)}")


def run(
    call: typer.Context,
    model: Annotated[str, typer.Option("--model", "-m", help=f"{MODELS}.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for this model's results.", file_okay=False)],
    tasks: Annotated[str, typer.Option("--tasks", "-t", help='"all", or names: gtzan_genre,emomusic.')] = "all",
    data_home: Annotated[Path | None, typer.Option(help="Folder with a folder for each corpus.")] = None,
    suite: Annotated[Suite | None, typer.Option(help="Run on generated data, written where it is missing.")] = None,
    layers: Annotated[str | None, typer.Option(help='Names or "all" (weighted); default: each, and "all".')] = None,
    lrs: Numbers = None,
    seeds: Numbers = None,
    head: Annotated[HeadKind, typer.Option(help="512 hidden units, or none.")] = "mlp",
    switches: Annotated[list[str] | None, typer.Option("--set", help="A protocol switch: beat_tol=0.02.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Items of each split; marks the result.")] = None,
    context: Annotated[Context, typer.Option(help="Embed task windows whole, or in training contexts.")] = "window",
    dtype: Annotated[Precision, typer.Option(help="Of the model's computation.")] = "float32",
    features: Annotated[Path | None, typer.Option(help="Where features are kept; default: OUT/features.")] = None,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Fewer than the task's own.")] = None,
    overwrite: Overwrite = False,
    raw: Annotated[bool, typer.Option("--raw", help="Short for --set features=raw: features are not scaled.")] = False,
    protocol: Annotated[Rules, typer.Option(help="marble: as MARBLE fits, where that can be set.")] = "hub",
    device: Device = "auto",
    revision: Revision = None,
) -> None:
    """Probe a model on tasks: every layer and learning rate, chosen on validation, tested once."""
    from mert.inference.runner import chosen_device
    from mir_benchmarks.conditions import MARBLE
    from mir_benchmarks.suite.sizes import MAX_EPOCHS, SWITCHES
    from mir_benchmarks.tasks.kind import Options
    from mir_benchmarks.tasks.protocols import MARBLE_SWITCHES, follow
    from mir_benchmarks.tasks.run import run_task
    from probes.cli import grid_of
    from probes.encoders import load_encoder

    chosen = tasks_of(tasks)
    if data_home is None and suite is None:
        raise UsageError("mert bench run", "there is no data", "give --data-home D, or --suite tiny")
    framewise = [task.name for task in chosen if task.kind in ("beats", "separation")]
    if head == "linear" and framewise:
        raise UsageError("--head linear", f"{framewise[0]} has a head of its own", "name tasks with a label per clip")
    fixed = MARBLE_SWITCHES if protocol == MARBLE else {}
    reduced = {name: value for name, value in (SWITCHES[suite] if suite else {}).items() if name not in fixed}
    asked = switches_of(chosen, [*(switches or []), *["features=raw"] * raw])
    check_device(device)
    home = data_home or out / f"suite-{suite}"
    if suite is None:
        refuse_missing(chosen, home)
    encoder = load_encoder(model, context, str(chosen_device(device)), revision, dtype)
    options = Options(
        layers=tuple(layers.split(",")) if layers else None, hidden=512 if head == "mlp" else 0,
        max_epochs=max_epochs or (MAX_EPOCHS[suite] if suite else None), limit=limit,
        device=str(chosen_device(device)), protocol=reduced | asked, rules=protocol, **grid_of(lrs, seeds),
    )  # fmt: skip
    follow(options, encoder.facts).grid(encoder.facts.layer_names)
    if suite is not None:
        generate(home, suite, {task.corpus for task in chosen})
    where: dict[str, Any] = {"home": home, "out": out, "features": features, "overwrite": overwrite}
    run_each(chosen, lambda task, shown: run_task(
        task, encoder, options=options, command=words_of(call), **where, **shown,
    ))  # fmt: skip


def run_each(tasks: list[TaskSpec], run_one: Callable[[TaskSpec, dict[str, Any]], Path]) -> None:
    """Run one task after the other and print their scores; exit code 1 at the end if some failed."""
    failed = 0
    for task in tasks:
        try:
            with callbacks(task) as shown:
                path = run_one(task, shown)
            typer.echo(line_of(path))
        except MertError as error:
            failed += 1
            typer.echo(f"error: {error}", err=True)
    if failed:
        rest = "what is finished is kept: mend what the errors name, then run the same command again"
        typer.echo(f"{failed} of {len(tasks)} tasks failed; {rest}", err=True)
        sys.exit(1)


def refuse_missing(tasks: list[TaskSpec], home: Path) -> None:
    """TaskError before any work if a dataset is missing, with what to download."""
    from mir_benchmarks.datasets.dataset import TaskError

    missing = {task.corpus: task for task in tasks if not (home / task.corpus).is_dir()}
    for corpus, task in missing.items():
        typer.echo(f"{home / corpus}: {task.get}", err=True)
    if missing:
        reason = f"{len(missing)} dataset{'s are' if len(missing) > 1 else ' is'} missing"
        raise TaskError(home, reason, "put them there, or name other tasks")


def switches_of(tasks: list[TaskSpec], pairs: list[str]) -> dict[str, str]:
    """Protocol switches from "name=value"; UsageError for names and values that no chosen task has."""
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
    """Write what is missing of a suite."""
    from mir_benchmarks.suite.write import write_suite
    from probes.clip_probe import n_cores

    with progress() as bar:
        rows = {name: bar.add_task(f"generate {name}", total=None) for name in sorted(corpora)}
        write_suite(
            home, suite, workers=n_cores(), corpora=sorted(corpora),
            on_progress=lambda name, done, total: bar.update(rows[name], completed=done, total=total),
        )  # fmt: skip


@contextmanager
def callbacks(task: TaskSpec) -> Iterator[dict[str, Callable[..., None]]]:
    """Callbacks of `run_task` that move progress bars."""
    lines = console(stderr=True)
    with progress(lines, transient=True) as bar:
        extracting = bar.add_task(f"{task.name}: extract", total=None)
        fitting = bar.add_task(f"{task.name}: fit", total=None)
        yield {
            "on_clip": lambda extracted, total: bar.update(extracting, advance=1, total=total),
            "on_fit": lambda row, total: bar.update(fitting, advance=1, total=total),
            "on_message": lambda line: lines.print(f"{task.name}: {line}", soft_wrap=True),
        }


def line_of(path: Path) -> str:
    from mir_benchmarks.conditions import marks
    from mir_benchmarks.report.tables import unit_of
    from probes.results import Result

    result = Result.load(path)
    interval = ", ".join(f"{bound:.2f}" for bound in result.score["ci95"] or ("unknown",))
    unit = unit_of(result).removeprefix("points")
    mark = "".join(f" ({mark})" for mark in marks(result) if mark != "synthetic")
    return (
        f"{result.task['name']:20} {result.score['mean']:6.2f}{unit} [{interval}] n={result.score['n']} "
        f"{result.layer} {result.scaling} lr={result.lr:g} {result.task['data']} data, {result.seconds:.0f} s{mark}"
    )
