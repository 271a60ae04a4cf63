"""Jobs of commands over many recordings: progress in seconds of audio, the report, failures and totals."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mert.cli import terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from mert.collection.plan import Job

SAMPLED = 200  # headers read to estimate the size of the output


class Meter:
    """The progress of jobs, shown on a bar in seconds of audio: those of files that are not finished count, too."""

    def __init__(self, jobs: Sequence[Job], expected_s: float) -> None:
        self.jobs, self.n_jobs, self.expected_s = jobs, len(jobs), expected_s
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
    rows: Iterator[dict[str, Any]], meter: Meter, report: Path | None, append: bool, passed_over: str = "",
    done: str = "embedded", take: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Counter[str]:  # fmt: skip
    """Give `take` the row of each file as it ends, write it into the report, show progress, print failures and totals.

    Without a report only failures are printed.
    """
    from mert.collection.job import Report

    counts: Counter[str] = Counter()
    start, seconds, frames = time.perf_counter(), 0.0, 0
    out = terminal.console(stderr=report is None)
    with ExitStack() as stack:
        outputs = {job.output for job in meter.jobs}
        lines = stack.enter_context(closing(Report(report, append, outputs))) if report else None
        bar = stack.enter_context(terminal.progress(out))
        meter.follow(bar)
        for row in rows:
            counts[row["status"]] += 1
            take(row)
            if lines:
                lines.add(row)
            seconds, frames = seconds + row["seconds"], frames + row["frames"]
            for note in [row["error"]] if row["error"] else row["warnings"]:
                name = "" if row["error"] else row["source"] + ": "
                bar.console.print(f"{row['status']}: {terminal.printable(name + note)}")
            meter.end(row["seconds"])
    counts["lost"] = meter.n_jobs - counts.total()
    elapsed = time.perf_counter() - start
    if not lines:
        return counts
    path = terminal.printable(str(report))
    damaged = f" ({counts['damaged']} damaged)" if counts["damaged"] else ""
    rest = f"; passed over: {terminal.printable(passed_over)}" if passed_over else ""
    out.print(
        f"{counts['ok'] + counts['damaged']} {done}{damaged}, {counts['skipped']} kept, "
        f"{counts['failed']} failed: {seconds:.1f} s of audio, "
        f"{frames} frames in {elapsed:.1f} s ({seconds / max(elapsed, 1e-9):.1f} x real time)"
        f"{rest}; {path}"
    )
    if lines.error:
        counts["unreported"] = 1
        out.print(f"{path}: lines are missing ({lines.error})")
    if counts["lost"]:
        again = "with --skip-existing" if done == "embedded" else "again"
        out.print(f"{terminal.counted(counts['lost'], 'file')} not reached: run the same command {again}")
    return counts
