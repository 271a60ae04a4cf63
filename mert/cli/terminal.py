"""Consoles, progress bars and options that the commands share, and the parsing of their values.

`mert --help` imports every command of `mert`, `mert probe` and `mert bench`, so nothing heavy is imported here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mert.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

LINES_S = (1.0, 5.0, 30.0)  # between looks at the work; at least, between lines of one task; at most
settings = {"quiet": False, "verbose": False}  # of the whole process: `mert --quiet`, `mert --verbose`

Executor = Literal["local", "ray"]
Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
HeadKind = Literal["mlp", "linear"]

DEFAULT = "mert-nano"  # comes with the package, with its heads
Model = Annotated[str, typer.Option("--model", "-m", envvar="MERT_MODEL", help="Name or folder.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:1, ...")]
Window = Annotated[str | None, typer.Option(help='Seconds, or "whole"; default: the training context.')]
Numbers = Annotated[str | None, typer.Option(help="Comma-separated; default: the published grid.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what OUT holds.")]
Picture = Annotated[Path, typer.Option("--out", "-o", help="Picture to write (.png, .svg, .pdf).")]


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no colours for numbers, no broken lines."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def progress(on: Console | None = None, transient: bool = False, disable: bool = False) -> Iterator[Progress]:
    """A progress bar (by default on stderr) with a count and the remaining time; a `transient` one vanishes.

    A pipe or a log file gets lines instead: every 30 s, and at each tenth of the work.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    lines, disable = on or console(stderr=True), disable or settings["quiet"]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=lines, transient=transient, disable=disable) as bar:
        if lines.is_terminal or disable:
            yield bar
            return
        ended = threading.Event()
        printer = threading.Thread(target=_print_progress, args=(bar, ended), daemon=True)
        printer.start()
        try:
            yield bar
        finally:
            ended.set()
            printer.join()


def _print_progress(bar: Progress, ended: threading.Event) -> None:
    """Print a line for each task of the bar now and then, until the work has ended."""
    printed: dict[int, tuple[float, int]] = {}
    started = time.monotonic()
    while not ended.wait(LINES_S[0]):
        now = time.monotonic()
        for task in list(bar.tasks):
            last, tenth = printed.get(task.id, (started, 0))
            reached = int(10 * task.completed / task.total) if task.total else 0
            if now - last < (LINES_S[1] if reached > tenth else LINES_S[2]) or not task.completed or task.finished:
                continue
            printed[task.id] = now, reached
            total = f"/{task.total:.0f}" if task.total else ""
            left = f", {task.time_remaining:.0f} s left" if task.time_remaining else ""
            bar.console.print(f"{task.description}: {task.completed:.0f}{total} in {now - started:.0f} s{left}")


def parse_layers(text: str) -> str | list[str | int]:
    """`recommended`, `last` and `all` as they are; "3,layer06,-1" as names and numbers.

    >>> parse_layers("3,layer06,-1")
    [3, 'layer06', -1]
    """
    if text in ("recommended", "last", "all"):
        return text
    parts = [part.strip() for part in text.split(",")]
    return [int(part) if part.lstrip("-").isdecimal() else part for part in parts]


def parse_window(text: str | None) -> float | str | None:
    """Seconds as a number; "whole" and None as they are."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


@contextmanager
def usage_errors(command: str) -> Iterator[None]:
    """Turn a ValueError into a UsageError of `mert COMMAND`, around lines that only resolve the values of options."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"mert {command}", str(error), f"see mert {command} --help") from error


def check_device(name: str) -> None:
    """UsageError for a device that is absent, or that no model runs on."""
    from mert.weights.networks import has_torch

    try:
        if has_torch():
            from mert.inference.runner import chosen_device

            chosen_device(name)
        else:
            from mert.inference.onnx_runner import refuse_device

            refuse_device(name)
    except UsageError as error:
        raise UsageError(f"--device {name}", error.reason, error.remedy) from None


def plugins(group: str, command: str) -> Iterator[tuple[str, Any]]:
    """Names and objects of an entry-point group, through which packages that build on mert add commands.

    One that cannot be imported, being damaged or hidden by a folder of its package's name, is a warning.
    """
    for plugin in entry_points(group=group):
        try:
            yield plugin.name, plugin.load()
        except ImportError as error:
            reason = f"{plugin.value} cannot be imported ({error})"
            typer.echo(printable(f"warning: `{command} {plugin.name}` is not available: {reason}"), err=True)


def counted(n: int, noun: str) -> str:
    """A count with its noun: `counted(1, "file")` is "1 file"."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def printable(text: str) -> str:
    """Text with odd characters of file names made visible.

    >>> printable("a" + chr(10) + "b.wav")
    'a\\\\nb.wav'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
