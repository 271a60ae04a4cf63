"""The command `mert embed`: a corpus in, a mirrored tree of features and a report out."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mert.cli import terminal
from mert.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mert.collection.job import EmbedStage
    from mert.collection.plan import Job

SAMPLED = 200  # headers read to estimate the size of the output
PoolMode = Literal["none", "mean", "meanstd"]


def embed(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the features.", file_okay=False)],
    inputs: Annotated[list[Path] | None, typer.Argument(help="Audio files and folders.", show_default=False)] = None,
    listing: Annotated[Path | None, typer.Option("--list", help="Text file with one path per line.")] = None,
    model: terminal.Model = "mert-nano",
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
) -> None:
    """Write time-stamped features of recordings: one .npz per file, the input tree mirrored.

    Exit code 0: all well; 2: wrong usage; 3: some files failed or are damaged (see report.jsonl).
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
    meter = Meter(len(jobs), expected_s)

    def on_start(stage: EmbedStage) -> None:
        announce(stage, jobs, expected_s, exact, planned.passed_over.total())
        warn_of_full_disk(stage, out, expected_s, longest_s)
        stage.on_audio = meter.add

    rows = run(jobs, options, executor, workers, on_start)
    out.mkdir(parents=True, exist_ok=True)
    counts = follow(rows, meter, out / name, append=skip_existing, passed_over=listed(planned.passed_over))
    raise typer.Exit(3 if any(counts[what] for what in ("failed", "damaged", "unreported", "lost")) else 0)


class Meter:
    """The progress of a job, shown on a bar in seconds of audio: those of files that are not finished count, too."""

    def __init__(self, n_jobs: int, expected_s: float) -> None:
        self.n_jobs, self.expected_s = n_jobs, expected_s
        self.n_ended, self.ended_s, self.reached_s = 0, 0.0, 0.0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def follow(self, bar: Progress) -> None:
        """Show the progress on a bar from now on."""
        self._bar, self._task = bar, bar.add_task("starting", total=max(self.expected_s, 1.0))

    def add(self, seconds: float) -> None:
        """Seconds of audio of an unfinished file were computed."""
        self.reached_s += seconds
        self._show()

    def end(self, seconds: float) -> None:
        """A file of so many seconds has ended; one that was kept, or failed, counts as one of average length."""
        self.n_ended += 1
        self.ended_s += seconds or self.expected_s / self.n_jobs
        self.reached_s = max(self.reached_s, self.ended_s)
        self._show()

    def _show(self) -> None:
        if self._bar is not None and self._task is not None:
            total = self.reached_s if self.n_ended == self.n_jobs else max(self.expected_s, self.reached_s)
            text = f"{self.n_ended}/{terminal.counted(self.n_jobs, 'file')}, seconds of audio"
            self._bar.update(self._task, completed=self.reached_s, total=max(total, 1e-9), description=text)


def announce(stage: EmbedStage, jobs: tuple[Job, ...], seconds: float, exact: bool, passed_over: int) -> None:
    """Print what a job will do, and the size of its output."""
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


def expected_seconds(jobs: tuple[Job, ...]) -> tuple[float, float, bool]:
    """Seconds of audio that the headers announce, those of the longest file, and whether all headers were read.

    Of many files an even sample is read.
    """
    from mert.audio.recording import Recording

    step = max(1, len(jobs) // SAMPLED)
    sample = jobs[::step]
    total = longest = 0.0
    for job in sample:
        with suppress(Exception):  # its error comes when it is tried
            claimed_s = Recording(job.source).claimed_seconds()
            total += claimed_s if claimed_s < 1e6 else 0.0
            longest = max(longest, claimed_s if claimed_s < 1e6 else 0.0)
    return total * len(jobs) / max(1, len(sample)), longest, step == 1


def follow(
    rows: Iterator[dict[str, Any]], meter: Meter, report: Path, append: bool, passed_over: str = ""
) -> Counter[str]:
    """Write a report line per file as it ends, show progress, print failures and totals."""
    from mert.collection.job import Report

    counts: Counter[str] = Counter()
    start, seconds, frames = time.perf_counter(), 0.0, 0
    out = terminal.console()
    with closing(Report(report, append)) as lines, terminal.progress(out) as bar:
        meter.follow(bar)
        for row in rows:
            counts[row["status"]] += 1
            lines.add(row)
            seconds, frames = seconds + row["seconds"], frames + row["frames"]
            for note in [row["error"]] if row["error"] else row["warnings"]:
                name = "" if row["error"] else row["source"] + ": "
                bar.console.print(f"{row['status']}: {terminal.printable(name + note)}")
            meter.end(row["seconds"])
    counts["lost"] = meter.n_jobs - counts.total()
    elapsed, path = time.perf_counter() - start, terminal.printable(str(report))
    damaged = f" ({counts['damaged']} damaged)" if counts["damaged"] else ""
    rest = f"; passed over: {terminal.printable(passed_over)}" if passed_over else ""
    out.print(
        f"{counts['ok'] + counts['damaged']} embedded{damaged}, {counts['skipped']} kept, "
        f"{counts['failed']} failed: {seconds:.1f} s of audio, "
        f"{frames} frames in {elapsed:.1f} s ({seconds / max(elapsed, 1e-9):.1f} x real time)"
        f"{rest}; {path}"
    )
    if lines.error:
        counts["unreported"] = 1
        out.print(f"{path}: lines are missing ({lines.error})")
    if counts["lost"]:
        out.print(f"{terminal.counted(counts['lost'], 'file')} not reached: run the same command with --skip-existing")
    return counts
