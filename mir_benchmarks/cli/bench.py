"""The command `mert bench`, found by name through the entry-point group `mert.commands`.

Each sub-command imports what it needs when it runs: this module is read for `mert --help`, too.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mir_benchmarks.cli.ablate import ablate
from mir_benchmarks.cli.card import card
from mir_benchmarks.cli.data import prepare
from mir_benchmarks.cli.invariance import robustness, triplets
from mir_benchmarks.cli.report import report
from mir_benchmarks.cli.run import ls, run, validate

app = typer.Typer(no_args_is_help=True, help="Music to train and test on, and the benchmark of MIR tasks.")


app.command()(ablate)
app.command()(card)
app.command()(ls)
app.command()(run)
app.command()(validate)
app.command()(report)
app.command()(prepare)
app.command()(robustness)
app.command()(triplets)


class Purpose(StrEnum):
    train = "train"
    bench = "bench"


class AudioFormat(StrEnum):
    flac = "flac"
    wav = "wav"


@app.command()
def synth(
    hours: Annotated[float, typer.Argument(help="Hours of music to have in the folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or one to go on with.", file_okay=False)],
    seed: Annotated[int, typer.Option(min=0, help="Another seed is other music.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a clip.")] = 10.0,
    rate_hz: Annotated[int, typer.Option(min=8_000, help="Sample rate.")] = 24_000,
    purpose: Annotated[Purpose, typer.Option(help="train and bench share no piece and no instrument.")] = Purpose.train,
    audio_format: Annotated[AudioFormat, typer.Option("--format", help="Of the files, 16 bits.")] = AudioFormat.flac,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
) -> None:
    """Write synthetic music with its scores, as data=synth plays it. Run it again to go on, or for more hours."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mir_benchmarks.synth.write import n_clips, write_hours

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("clips"), TimeRemainingColumn())
    counts = {True: 0, False: 0}
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("clips", total=n_clips(hours, seconds) if 0 < hours < float("inf") else None)

        def tell(rendered: bool) -> None:
            counts[rendered] += 1
            bar.advance(task)

        scores = write_hours(
            hours, out, seed, workers, seconds=seconds, rate_hz=rate_hz, purpose=purpose.value,
            suffix=audio_format.value, tell=tell,
        )  # fmt: skip
    total = sum(counts.values())
    console.print(
        f"{total} clips of {seconds:g} s ({total * seconds / 3600:.4g} h) at {rate_hz} Hz: {counts[True]} written, "
        f"{counts[False]} kept; what was composed: {scores}"
    )
