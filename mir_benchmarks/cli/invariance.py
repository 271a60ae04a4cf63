"""The commands `mert bench robustness` and `mert bench triplets`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mir_benchmarks.cli.run import Context

if TYPE_CHECKING:
    from mir_benchmarks.report.tables import Table
    from probes.encoders import Encoder

Audio = Annotated[list[Path], typer.Argument(help="Recordings, or folders of them.", show_default=False)]
Models = Annotated[
    list[str], typer.Option("--model", "-m", help="Name, folder, log-mel, mfcc, cqt-chroma, random-nano; repeatable.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.", dir_okay=False)]
Layer = Annotated[str | None, typer.Option(help="Shown in the table; default: recommended, else last. JSON has all.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Length of a segment.")]
Heard = Annotated[Context, typer.Option(help="Hear a segment at once, or as `mert embed`, in training contexts.")]
Device = Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:1, ...")]


def robustness(
    audio: Audio,
    model: Models,
    out: Out,
    layer: Layer = None,
    segment_s: Seconds = 3.0,
    context: Heard = Context.training,
    device: Device = "auto",
) -> None:
    """Change the sound (gain, offset, noise, MP3, speed) and measure how far embeddings move.

    Exit code 0: all well; 2: wrong usage; 3: some recordings could not be read.
    """
    from mir_benchmarks.invariance.robustness import measure_robustness, robustness_tables

    def measure(encoders: list[Encoder], **how: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
        return measure_robustness(encoders, segment_s=segment_s, layer=layer, **how)

    done(*measured(audio, model, context, device, measure), out, robustness_tables)


def triplets(
    audio: Audio,
    model: Models,
    out: Out,
    layer: Layer = None,
    segment_s: Seconds = 3.0,
    context: Heard = Context.training,
    device: Device = "auto",
) -> None:
    """Count how often a segment is nearer to one of its own recording than to one of another.

    Exit code 0: all well; 2: wrong usage; 3: some recordings could not be read.
    """
    from mir_benchmarks.invariance.triplets import measure_triplets, triplets_table

    def measure(encoders: list[Encoder], **how: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
        return measure_triplets(encoders, segment_s=segment_s, layer=layer, **how)

    done(*measured(audio, model, context, device, measure), out, lambda found: (triplets_table(found),))


def measured(
    audio: list[Path], models: list[str], context: Context, device: str, measure: Callable[..., Any]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a measurement gives for models by name, under a progress bar."""
    from mir_benchmarks.invariance.segments import sources_of
    from probes.cli import chosen_device
    from probes.encoders import load_encoder

    sources, left_out = sources_of(audio)
    encoders = [load_encoder(name, context.value, chosen_device(device)) for name in models]
    with bar(len(sources) * len(encoders)) as tell:
        found: tuple[dict[str, Any], tuple[str, ...]] = measure(encoders, sources=sources, left_out=left_out, tell=tell)
    return found


@contextmanager
def bar(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on stderr, and what moves it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("recordings"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def done(
    found: Mapping[str, Any], failed: tuple[str, ...], out: Path, tables: Callable[[Any], tuple[Table, ...]]
) -> None:
    """Write the JSON, print the tables, and say what was left out."""
    from mert.cli.terminal import printable
    from mert.files import write_json

    write_json(out, dict(found))
    for table in tables(found):
        show(table)
    for name, reason in found["left_out"].items():
        typer.echo(f"left out: {printable(name)}: {printable(reason)}", err=True)
    typer.echo(f"every layer: {printable(str(out))}")
    if failed:
        sys.exit(3)


def show(table: Table) -> None:
    """A table of a report, in the terminal."""
    from rich.console import Console
    from rich.table import Column
    from rich.table import Table as Grid
    from rich.text import Text

    columns = (
        Column(Text(name), justify="left" if table.is_text(i) else "right", overflow="fold")
        for i, name in enumerate(table.columns)
    )
    grid = Grid(*columns, title=Text(table.title), caption=Text(table.note), box=None, title_justify="left")
    grid.caption_justify = "left"
    for row in table.rows:
        grid.add_row(*map(Text, row))
    Console(highlight=False).print(grid)
