"""`mert prepare`: a corpus decoded once, for training at scale."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from mert.cli.teachers import DataOptions, quiet_datasets
from mert.cli.terminal import Executor, counted, printable, progress
from mert.errors import UsageError


def prepare(
    data: Annotated[str, typer.Argument(metavar="AUDIO", help="A folder, a .jsonl manifest or hf:NAME.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the store.")],
    rate_hz: Annotated[int, typer.Option("--rate", min=1000, help="Sample rate, that of the model.")] = 24_000,
    data_options: DataOptions = None,
    executor: Annotated[Executor, typer.Option(help="Where the work runs.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes, or Ray actors.")] = 1,
) -> None:
    """Decode, mix and resample music once, into a store to train on: data=STORE. Run it again to go on."""
    from mert.train.corpus.prepare import REPORT, PrepareOptions, planned, prepare, preparing
    from mert.train.recipe import parse_override

    quiet_datasets(data)
    settings = PrepareOptions(data, str(out), rate_hz, dict(map(parse_override, data_options or [])))
    with preparing(settings):
        with progress(transient=True) as bar:
            plan = planned(settings, lambda listed: bar.track(listed, description="reading headers"))
        hours, n_bytes = plan.n_samples / rate_hz / 3600, plan.n_bytes
        n = sum(map(len, plan.shards))
        typer.echo(f"{counted(n, 'recording')}, {hours:.2f} h: {n_bytes / 1e9:.2f} GB in {printable(str(out))}")
        if n_bytes > (free := shutil.disk_usage(out).free + _written(out)):
            raise UsageError(
                out, f"needs {n_bytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free", "give another disk"
            )
        with progress() as bar:
            task = bar.add_task("shards", total=len(plan.shards))
            about = prepare(settings, plan, executor, workers, lambda number: bar.update(task, advance=1))
    n_left_out = sum(row["status"] in ("failed", "duplicate") for row in about["report"])
    left_out = f"; {n_left_out} left out, see {out / REPORT}" if n_left_out else ""
    typer.echo(f"{counted(about['recordings'], 'recording')}, {about['hours']:.2f} h at {rate_hz} Hz{left_out}")
    if any(row["status"] == "failed" for row in about["report"]):
        raise typer.Exit(3)


def _written(folder: Path) -> int:
    """Bytes that an earlier start has written, and this one keeps or replaces."""
    return sum(path.stat().st_size for path in folder.glob("audio-*.arrow"))
