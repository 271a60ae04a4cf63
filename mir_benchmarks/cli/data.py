"""The command `mert bench prepare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    tasks: Annotated[str, typer.Argument(help='"all", or names: gtzan_genre,emomusic.')],
    data_home: Annotated[Path, typer.Option(help="Folder with a folder for each corpus.")],
    check: Annotated[bool, typer.Option("--check", help="Look at every recording's header; no model is run.")] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="With --check: decode everything, which takes long.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="With --check: hash all files to find the same one in two splits.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="Findings shown of each kind.")] = 10,
) -> None:
    """Say what to download for tasks and where to put it; with --check, what is missing, empty or damaged there."""
    from mert.errors import UsageError
    from mir_benchmarks.cli.run import tasks_of

    if (decode or duplicates) and not check:
        raise UsageError("mert bench prepare", "--decode and --duplicates need --check", "add --check")
    chosen = tasks_of(tasks)
    if check:
        sys.exit(_checked([task.name for task in chosen], data_home, decode, duplicates, most))
    for corpus, get in {task.corpus: task.get for task in chosen}.items():
        there = " (a folder is there: --check looks into it)" if (data_home / corpus).is_dir() else ""
        typer.echo(f"{data_home / corpus}{there}\n  {get}")


def _checked(names: list[str], data_home: Path, decode: bool, duplicates: bool, most: int) -> int:
    """Print the report; gives the exit status, 1 if something keeps a task from being run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from mir_benchmarks.tasks.check import check

    columns = (TextColumn("look at recordings"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task("look", total=None)
        report = check(
            data_home, names, decode, duplicates, lambda done, total: bar.update(row, completed=done, total=total)
        )
    for line in report.lines(most):
        typer.echo(line)
    typer.echo("ready" if report.ok else "not ready")
    return 0 if report.ok else 1
