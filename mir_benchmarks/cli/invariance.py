"""The commands `mert bench robustness` and `triplets`, which need recordings and no labels."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mert.cli.terminal import Device, check_device, printable, progress, usage_errors
from mert.errors import UsageError
from mir_benchmarks.cli.options import MODELS, Context, words_of

if TYPE_CHECKING:
    from mir_benchmarks.report.tables import Table

Layer = Annotated[str | None, typer.Option(help="Shown in the table; default: recommended, else last. JSON has all.")]
InContext = Annotated[Context, typer.Option(help="Embed segments whole, or in training contexts as `mert embed` does.")]

EXIT_CODES = "Exit code 0: all well; 1: an error that ends it; 2: wrong usage; 3: some recordings could not be read."
COMMANDS = {
    "robustness": "Change the sound (gain, offset, noise, MP3, speed) and measure how far embeddings move.",
    "triplets": "Count how often a segment is nearer to one of its own recording than to one of another.",
}


def measure(
    call: typer.Context,
    audio: Annotated[list[Path], typer.Argument(help="Recordings, or folders of them.", show_default=False)],
    model: Annotated[list[str], typer.Option("--model", "-m", help=f"{MODELS}; repeatable.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.", dir_okay=False)],
    layer: Layer = None,
    segment_s: Annotated[float, typer.Option(min=0.1, help="Length of a segment.")] = 3.0,
    context: InContext = "training",
    device: Device = "auto",
) -> None:
    """Run one of COMMANDS, write its JSON, and print its tables and the recordings that were left out."""
    from mert.files import write_json
    from mert.inference.runner import chosen_device
    from mir_benchmarks.invariance.robustness import measure_robustness, robustness_tables
    from mir_benchmarks.invariance.segments import audio_files, chosen_layer
    from mir_benchmarks.invariance.triplets import measure_triplets, triplets_table
    from probes.encoders import MertEncoder, load_encoder

    check_device(device)
    encoders = [load_encoder(name, context, str(chosen_device(device))) for name in model]
    if layer is not None and not any(isinstance(encoder, MertEncoder) for encoder in encoders):
        raise UsageError(f"--layer {layer}", f"{' and '.join(model)} have one layer each", "leave it out")
    with usage_errors(f"bench {call.info_name}"):
        for encoder in encoders:
            chosen_layer(encoder, layer)
    files, left_out = audio_files(audio)
    function = measure_robustness if call.info_name == "robustness" else measure_triplets
    with progress(transient=True) as bar:
        row = bar.add_task("recordings", total=len(files) * len(encoders))
        measured, failed = function(encoders, files, left_out, segment_s, layer, lambda: bar.advance(row))
    write_json(out, measured | {"command": words_of(call)})
    tables = robustness_tables(measured) if call.info_name == "robustness" else (triplets_table(measured),)
    for table in tables:
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
