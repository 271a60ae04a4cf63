"""The command `mert embed`: a corpus in, a mirrored tree of features and a report out."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from mert.features import Pool
    from mert.inputs import Job
    from mert.stage import EmbedOptions

SAMPLED = 200  # headers read to foretell the size of the output
Row = dict[str, Any]


class Executor(StrEnum):
    local = "local"
    ray = "ray"


class Precision(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    int8 = "int8"


class Stored(StrEnum):
    float16 = "float16"
    float32 = "float32"


class PoolMode(StrEnum):
    none = "none"
    mean = "mean"
    meanstd = "meanstd"


POOLS: dict[PoolMode, Pool] = {PoolMode.none: None, PoolMode.mean: "mean", PoolMode.meanstd: "meanstd"}


def embed(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the features.", file_okay=False)],
    inputs: Annotated[list[Path] | None, typer.Argument(help="Audio files and folders.", show_default=False)] = None,
    listing: Annotated[Path | None, typer.Option("--list", help="Text file with one path a line.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", envvar="MERT_MODEL", help="Name or folder.")] = "mert-nano",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    layers: Annotated[str, typer.Option(help="last (or the recommended one), all, or a list: 3,layer06,-1.")] = "last",
    pool: Annotated[PoolMode, typer.Option(help="Keep frames, or their mean (and deviation).")] = PoolMode.none,
    window: Annotated[str | None, typer.Option(help='Seconds, or "whole"; default: the training context.')] = None,
    hop: Annotated[float | None, typer.Option(help="Seconds from window to window; default: a window.")] = None,
    dtype: Annotated[
        Precision, typer.Option(help="Of the computation; auto: bfloat16 where it is native.")
    ] = Precision.auto,
    save_dtype: Annotated[Stored, typer.Option(help="Precision on disk.")] = Stored.float16,
    batch_size: Annotated[str, typer.Option(help="Windows a forward pass, or auto.")] = "auto",
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes (local) or actors (ray).")] = 1,
    executor: Annotated[Executor, typer.Option(help="Where the work runs.")] = Executor.local,
    shard: Annotated[str | None, typer.Option(help="i/n: do only the i-th of n parts, i from 1.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Do only the first files.")] = None,
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Refuse recordings longer than this.")] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Keep outputs already made this way.")] = False,
) -> None:
    """Write time-stamped features of recordings: one .npz a file, the input tree mirrored.

    Exit code 0: all well; 2: wrong usage; 3: some files failed (see report.jsonl).
    """
    from mert import inputs as finding
    from mert.stage import EmbedOptions

    plan = finding.plan(inputs or [], out, listing)
    jobs = finding.shard_of(plan.jobs, shard) if shard else plan.jobs
    jobs = jobs[:limit]
    options = EmbedOptions(
        model=model, revision=revision, layers=parse_layers(layers), pool=POOLS[pool],
        window=parse_window(window), hop=hop, dtype=dtype.value, save_dtype=save_dtype.value, device=device,
        batch_size=int(batch_size) if batch_size.isdecimal() else batch_size, max_seconds=max_seconds,
        skip_existing=skip_existing,
    )  # fmt: skip
    rows = started(jobs, options, executor.value, workers, sum(plan.passed_over.values()))
    out.mkdir(parents=True, exist_ok=True)
    name = f"report-{shard.replace('/', '-of-')}.jsonl" if shard else "report.jsonl"
    counts = follow(rows, len(jobs), out / name, append=skip_existing)
    raise typer.Exit(3 if counts["failed"] or counts["unreported"] or counts["lost"] else 0)


def parse_layers(text: str) -> str | list[str | int]:
    """`last` and `all` as they are; "3,layer06,-1" as names and numbers.

    >>> parse_layers("3,layer06,-1")
    [3, 'layer06', -1]
    """
    if text in ("last", "all"):
        return text
    parts = [part.strip() for part in text.split(",")]
    return [int(part) if part.lstrip("-").isdecimal() else part for part in parts]


def parse_window(text: str | None) -> float | str | None:
    """Seconds as a number; "whole" and None as they are."""
    try:
        return text if text is None else float(text)
    except ValueError:
        return text


def started(
    jobs: tuple[Job, ...], options: EmbedOptions, executor: str, workers: int, passed_over: int
) -> Iterator[Row]:
    """Check the options on a loaded model, say what will be done, and start."""
    from rich.console import Console

    from mert import jobs as work
    from mert.errors import UsageError
    from mert.stage import EmbedStage

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if executor == "ray" and ":" in options.device:
        raise UsageError(f"--device {options.device}", "Ray gives each actor a GPU of its own", "give cuda or auto")
    check_device(options.device)
    stage = EmbedStage(options)
    embedder, settings = stage.embedder, stage.settings
    names = embedder.names(settings)
    shown = names[0] if len(names) == 1 else f"{len(names)} layers"
    console.print(
        f"{embedder.info.name} ({embedder.info.licence}) on {embedder.device}, {settings.dtype}; "
        f"{shown}, {settings.pool or 'frames'}, stored as {options.save_dtype}"
    )
    width = 2 if options.save_dtype == "float16" else 4
    seconds, exact = expected_seconds(jobs)
    size = seconds * embedder.bytes_per_second(settings, width)
    if settings.pool:
        size = len(jobs) * len(names) * embedder.dim * width * (2 if settings.pool == "meanstd" else 1)
    about = "" if exact else f" (from {SAMPLED} headers)"
    console.print(
        f"{len(jobs)} files, {duration(seconds)} of audio{about}: {size / 2**20:,.1f} MiB expected"
        + (f"; {passed_over} other files in the folders passed over" if passed_over else "")
    )
    if executor == "local" and workers == 1:
        return work.run_here(stage.rows(jobs))
    del stage, embedder
    return work.run(jobs, options, executor, workers)


def check_device(name: str) -> None:
    """UsageError for a device that is not there, or has no float64 (as Apple's), in which the first norm's sums are."""
    import torch

    from mert.errors import UsageError

    try:
        torch.zeros(0, dtype=torch.float64, device="cpu" if name == "auto" else name)
    except (RuntimeError, AssertionError, TypeError) as error:  # of a torch without CUDA, and of one without float64
        reason = str(error).split("\n")[0].split(". ")[0]
        raise UsageError(f"--device {name}", reason, "give auto, cpu, cuda or cuda:1") from None


def expected_seconds(jobs: tuple[Job, ...]) -> tuple[float, bool]:
    """Seconds of audio that the headers announce: of all files, or foretold from an even sample of many."""
    import math

    from mert.audio import Recording

    step = max(1, len(jobs) // SAMPLED)
    sample = jobs[::step]
    total = 0.0
    for job in sample:
        with suppress(Exception):  # its error comes when it is tried
            claimed_s = Recording(job.source).claimed_seconds()
            total += claimed_s if math.isfinite(claimed_s) and claimed_s < 1e6 else 0.0
    return total * len(jobs) / max(1, len(sample)), step == 1


class Report:
    """The report, a line a file: several commands may add to one, and lines that a full disk refuses wait."""

    def __init__(self, path: Path, append: bool) -> None:
        if not append:
            path.write_bytes(b"")
        self._file = open(path, "ab", 0)  # noqa: SIM115 - unbuffered appends do not mix with those of others
        self._made = set(made_by(path))
        self._waiting, self.error = b"", ""

    def add(self, row: Row) -> None:
        """Write a line, unless the file is skipped and has one: a run that was killed may have left it without."""
        if row["status"] == "skipped" and row["output"] in self._made:
            return
        self._waiting += json.dumps(row).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self.error = ""
        except OSError as error:
            self.error = str(error.strerror)

    def close(self) -> None:
        self.flush()
        self._file.close()


def follow(rows: Iterator[Row], n_jobs: int, report: Path, append: bool) -> Counter[str]:
    """Write a report line a file as it ends, show progress, print failures and the sum."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    counts: Counter[str] = Counter()
    start, seconds, frames = time.perf_counter(), 0.0, 0
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    with closing(Report(report, append)) as lines, Progress(*columns, console=console) as bar:
        task = bar.add_task("starting", total=n_jobs)
        for row in rows:
            counts[row["status"]] += 1
            lines.add(row)
            seconds, frames = seconds + row["seconds"], frames + row["frames"]
            for note in [row["error"]] if row["error"] else row["warnings"]:
                name = "" if row["error"] else row["source"] + ": "
                bar.console.print(f"{row['status']}: {printable(name + note)}")
            elapsed = time.perf_counter() - start
            speed = f"{sum(counts.values()) / elapsed:.2f} files/s, {seconds / elapsed:.1f} x real time"
            bar.update(task, advance=1, description=speed)
    counts["lost"] = n_jobs - counts.total()
    elapsed = time.perf_counter() - start
    console.print(
        f"{counts['ok']} embedded, {counts['skipped']} kept, {counts['failed']} failed: {seconds:.1f} s of audio, "
        f"{frames} frames in {elapsed:.1f} s ({seconds / max(elapsed, 1e-9):.1f} x real time); {printable(str(report))}"
    )
    if lines.error:
        counts["unreported"] = 1
        console.print(f"{printable(str(report))}: lines are missing ({lines.error})")
    if counts["lost"]:
        console.print(f"{counts['lost']} files were not reached: run the same command with --skip-existing")
    return counts


def made_by(path: Path) -> Iterator[str]:
    """Outputs that a report says are there."""
    with open(path, "rb") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut off
                row = json.loads(line)
                if row["status"] != "failed":
                    yield row["output"]


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(75), duration(8640)
    ('75 s', '2.40 h')
    """
    return f"{seconds:.0f} s" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def printable(text: str) -> str:
    """Text with odd characters of file names made visible.

    >>> printable("a" + chr(10) + "b.wav")
    'a\\\\nb.wav'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
