"""The command `mert embed`: a corpus in, a mirrored tree of features and a report out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mert.cli import terminal
from mert.cli.jobs import SAMPLED, Meter, expected_seconds, follow
from mert.errors import OutputError, UsageError

if TYPE_CHECKING:
    from mert.collection.job import EmbedStage
    from mert.collection.plan import Job

PoolMode = Literal["none", "mean", "meanstd"]


def embed(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the features.", file_okay=False)],
    inputs: Annotated[list[Path] | None, typer.Argument(help="Audio files and folders.", show_default=False)] = None,
    listing: Annotated[Path | None, typer.Option("--list", help="Text file with one path per line.")] = None,
    model: terminal.Model = terminal.DEFAULT,
    revision: terminal.Revision = None,
    layers: Annotated[str, typer.Option(help="recommended, last, all, or a list: 3,layer06,-1.")] = "recommended",
    pool: Annotated[PoolMode, typer.Option(help="Keep frames, or their mean (and deviation).")] = "none",
    window: terminal.Window = None,
    hop: Annotated[float | None, typer.Option(help="Seconds between windows; default: a window.")] = None,
    dtype: Annotated[terminal.Precision, typer.Option(help="Of the computation; auto: bfloat16 if native.")] = "auto",
    save_dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Precision on disk.")] = "float16",
    batch_size: Annotated[str, typer.Option(help="Windows per forward pass, or auto.")] = "auto",
    device: terminal.Device = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes (local) or actors (ray).")] = 1,
    executor: Annotated[terminal.Executor, typer.Option(help="Where the work runs.")] = "local",
    shard: Annotated[str | None, typer.Option(help="i/n: do only the i-th of n parts, i from 1.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Do only the first files.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Refuse recordings longer than this.")] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Keep outputs that these options would write again.")
    ] = False,
    overwrite: terminal.Overwrite = False,
) -> None:
    """Write time-stamped features of recordings: one .npz per file, the input tree mirrored.

    Exit code 0: all well; 1: an error that ends it; 2: wrong usage; 3: some files failed or are damaged (see
    report.jsonl).
    """
    from mert.audio.find import listed
    from mert.collection.executors import run
    from mert.collection.job import JobOptions
    from mert.collection.plan import plan, shard_of

    planned = plan(inputs or [], out, listing)
    jobs = (shard_of(planned.jobs, shard) if shard else planned.jobs)[:limit]
    options = JobOptions(
        model, revision=revision, layers=terminal.parse_layers(layers), pool=None if pool == "none" else pool,
        window=terminal.parse_window(window), hop=hop, dtype=dtype, save_dtype=save_dtype, device=device,
        batch_size=int(batch_size) if batch_size.isdecimal() else batch_size, max_seconds=max_seconds,
        skip_existing=skip_existing,
    )  # fmt: skip
    if executor == "ray" and ":" in device:
        raise UsageError(f"--device {device}", "Ray gives each actor a GPU of its own", "give cuda or auto")
    terminal.check_device(device)
    expected_s, longest_s, exact = expected_seconds(jobs)
    name = f"report-{shard.replace('/', '-of-')}.jsonl" if shard else "report.jsonl"
    meter = Meter(jobs, expected_s)

    def on_start(stage: EmbedStage) -> None:
        if not overwrite:
            refuse_other_features(stage, jobs)
        announce(stage, jobs, expected_s, exact, planned.passed_over.total())
        warn_of_full_disk(stage, out, expected_s, longest_s)
        stage.on_audio = meter.add

    rows = run(jobs, options, executor, workers, on_start)
    out.mkdir(parents=True, exist_ok=True)
    counts = follow(rows, meter, out / name, append=skip_existing, passed_over=listed(planned.passed_over))
    raise typer.Exit(3 if any(counts[what] for what in ("failed", "damaged", "unreported", "lost")) else 0)


def refuse_other_features(stage: EmbedStage, jobs: tuple[Job, ...]) -> None:
    """UsageError where an output that is there is of another program, or the first of ours was made in another way."""
    from mert.embedding.features import Features
    from mert.embedding.npz import is_of_others

    if other := next((job.output for job in jobs if is_of_others(job.output)), None):
        raise UsageError(other, "holds no features of mert embed", "give another -o, or --overwrite to replace it")
    for job in jobs:
        try:
            meta = Features.load_meta(job.output)
        except (OutputError, OSError):  # none yet, or damaged
            continue
        if differing := stage.differing(meta):
            other = f"of another model ({meta.get('model', 'not named')})"
            what = other if "weights_sha256" in differing else f"that differ in {', '.join(differing)}"
            raise UsageError(job.output, f"holds features {what}", "give another -o, or --overwrite to replace them")
        return


def announce(stage: EmbedStage, jobs: tuple[Job, ...], seconds: float, exact: bool, passed_over: int) -> None:
    """Print what a job will do, and the size of its output, unless `mert -q` asks for results only."""
    if terminal.settings["quiet"]:
        return
    lines, embedder, settings = terminal.console(), stage.embedder, stage.settings
    names, stored = embedder.names(settings), stage.options.save_dtype
    lines.print(
        f"{embedder.info.name} ({embedder.info.licence}) on {embedder.device}, {settings.dtype}; "
        f"{names[0] if len(names) == 1 else f'{len(names)} layers'}, {settings.pool or 'frames'}, stored as {stored}"
    )
    width = 2 if stored == "float16" else 4
    size = seconds * embedder.bytes_per_second(settings, width)
    if settings.pool:
        size = len(jobs) * len(names) * embedder.dim * width * (2 if settings.pool == "meanstd" else 1)
    about = "" if exact else f" (from {SAMPLED} headers)"
    duration = f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"
    lines.print(
        f"{terminal.counted(len(jobs), 'file')}, {duration} of audio{about}: {size / 2**20:,.1f} MiB expected"
        + (f"; {terminal.counted(passed_over, 'other file')} in the folders passed over" if passed_over else "")
    )


def warn_of_full_disk(stage: EmbedStage, out: Path, expected_s: float, longest_s: float) -> None:
    """Warn where the frames do not fit on the disk: while a file is written, one of its layers is there twice."""
    names, settings = stage.embedder.names(stage.settings), stage.settings
    per_second = stage.embedder.bytes_per_second(settings, 2 if stage.options.save_dtype == "float16" else 4)
    wanted = per_second * (expected_s + longest_s / len(names))
    free = shutil.disk_usage(next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())).free
    if not settings.pool and wanted > free:
        reason = f"{wanted / 2**20:,.1f} MiB are needed for a time, and {free / 2**20:,.1f} MiB are free"
        terminal.console().print(f"warning: {terminal.printable(str(out))}: {reason}")
