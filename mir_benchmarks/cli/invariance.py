"""The commands `mert bench robustness` and `triplets`, which need recordings and no labels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mert.cli.terminal import Device, check_device, printable, progress, usage_errors
from mir_benchmarks.cli.options import MODELS, Context, words_of

if TYPE_CHECKING:
    from mir_benchmarks.report.tables import Table
    from probes.encoders import Encoder

Audio = Annotated[list[Path], typer.Argument(help="Recordings, or folders of them.", show_default=False)]
Models = Annotated[list[str], typer.Option("--model", "-m", help=f"{MODELS}; repeatable.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.", dir_okay=False)]
Layer = Annotated[str | None, typer.Option(help="Shown in the table; default: recommended, else last. JSON has all.")]
Seconds = Annotated[float, typer.Option(min=0.1, help="Length of a segment.")]
InContext = Annotated[Context, typer.Option(help="Embed segments whole, or in training contexts as `mert embed` does.")]


def robustness(
    call: typer.Context,
    audio: Audio,
    model: Models,
    out: Out,
    layer: Layer = None,
    segment_s: Seconds = 3.0,
    context: InContext = "training",
    device: Device = "auto",
) -> None:
    """Change the sound (gain, offset, noise, MP3, speed) and measure how far embeddings move.

    Exit code 0: all well; 2: wrong usage; 3: some recordings could not be read.
    """
    from mir_benchmarks.invariance.robustness import measure_robustness, robustness_tables

    measure = partial(measure_robustness, segment_s=segment_s, layer=layer)
    measure_and_write(call, audio, encoders_of(call, model, context, device, layer), measure, robustness_tables, out)


def triplets(
    call: typer.Context,
    audio: Audio,
    model: Models,
    out: Out,
    layer: Layer = None,
    segment_s: Seconds = 3.0,
    context: InContext = "training",
    device: Device = "auto",
) -> None:
    """Count how often a segment is nearer to one of its own recording than to one of another.

    Exit code 0: all well; 2: wrong usage; 3: some recordings could not be read.
    """
    from mir_benchmarks.invariance.triplets import measure_triplets, triplets_table

    measure = partial(measure_triplets, segment_s=segment_s, layer=layer)
    encoders = encoders_of(call, model, context, device, layer)
    measure_and_write(call, audio, encoders, measure, lambda measured: (triplets_table(measured),), out)


def encoders_of(
    call: typer.Context, models: list[str], context: Context, device: str, layer: str | None
) -> list[Encoder]:
    """Models by name; UsageError for a device or a layer that there is not."""
    from mir_benchmarks.invariance.segments import chosen_layer
    from probes.cli import chosen_device
    from probes.encoders import load_encoder

    check_device(device)
    encoders = [load_encoder(name, context, chosen_device(device)) for name in models]
    with usage_errors(f"bench {call.info_name}"):
        for encoder in encoders:
            chosen_layer(encoder, layer)
    return encoders


def measure_and_write(
    call: typer.Context,
    audio: list[Path],
    encoders: list[Encoder],
    measure: Callable[..., tuple[dict[str, Any], tuple[str, ...]]],
    tables: Callable[[dict[str, Any]], Sequence[Table]],
    out: Path,
) -> None:
    """Measure under a progress bar, write the JSON, and print its tables and the recordings that were left out."""
    from mert.files import write_json
    from mir_benchmarks.invariance.segments import audio_files

    files, left_out = audio_files(audio)
    with progress(transient=True) as bar:
        row = bar.add_task("recordings", total=len(files) * len(encoders))
        measured, failed = measure(encoders, files, left_out, on_progress=lambda: bar.advance(row))
    write_json(out, measured | {"command": words_of(call)})
    for table in tables(measured):
        show(table)
    for name, reason in measured["left_out"].items():
        typer.echo(f"left out: {printable(name)}: {printable(reason)}", err=True)
    typer.echo(f"every layer: {printable(str(out))}")
    if failed:
        sys.exit(3)


def show(table: Table) -> None:
    """Print a table of a report in the terminal."""
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
