"""DescribeStage: the description of each recording, as a file where one is asked for, and a row of the report.

Shapes: L layers, T frames, D model width.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mert.collection.extraction import Extraction, extract
from mert.collection.job import Row, Stage
from mert.collection.plan import Job
from mert.describe.analysis import Analysis, frames_of
from mert.describe.describer import load
from mert.describe.description import MADE_BY, SCHEMA
from mert.embedding.embedder import VERSION
from mert.errors import AudioError, CheckpointError
from mert.files import read_json, sha256_file, stamp, write_json


@dataclass(frozen=True)
class DescribeOptions:
    """What every worker must know: `heads` are folders beside those of the model, `every_s` the length of sections."""

    model: str
    _: KW_ONLY
    heads: tuple[str, ...] = ()
    every_s: float | None = None
    revision: str | None = None
    device: str = "auto"
    max_seconds: float | None = None

    def stage(self) -> Stage:
        """What does the work, in each process."""
        return DescribeStage(self)


class DescribeStage:
    """Descriptions of files: `stage.rows(jobs)` yields one row per job, in order, and short files share batches.

    A row has source, output (empty: no file is written), status (ok, damaged, skipped, failed), seconds (of audio),
    frames, elapsed_s, warnings, error, and `description`, None where it failed.
    """

    def __init__(self, options: DescribeOptions) -> None:
        self.options = options
        self.describer = load(options.model, options.revision, options.device)
        self.heads = self.describer.head_set(options.heads)
        self.settings = replace(self.heads.settings, max_seconds=options.max_seconds)
        frames_of(options.every_s, self.describer.frame_rate)  # its error comes before any work
        self.on_audio: Callable[[float], None] = lambda seconds: None  # called as seconds of audio are computed

    @property
    def made_by(self) -> dict[str, Any]:
        """What a description depends on, beside the recording."""
        facts = {"weights_sha256": self.describer.sha256, "heads": self.heads.identity(), "every": self.options.every_s}
        return facts | {"runtime": self.describer.runner.name, "version": VERSION, "schema": SCHEMA}

    def rows(self, jobs: Iterable[Job]) -> Iterator[Row]:
        """The rows; none is an exception, as failed files have a row with their error."""
        described = (FileDescription(job, self) for job in jobs)
        with closing(extract(self.describer, self.settings, described)) as files:
            for file in files:
                yield file.row()


class FileDescription(Extraction):
    """The description of one job, its file if it has one, and its row."""

    def __init__(self, job: Job, stage: DescribeStage) -> None:
        super().__init__(job.source)
        self.job, self._stage, self._started = job, stage, time.perf_counter()
        self._status, self._n_frames = "ok", 0
        self._stamp: tuple[int, ...] = ()
        self._analysis = Analysis(stage.heads, self, stage.options.every_s)
        self._described: dict[str, Any] | None = None

    def is_needed(self) -> bool:
        """Whether its file is missing, damaged, of another recording, or made by other heads."""
        self._stamp = stamp(self.job.source)
        if not self.job.output or not os.path.exists(self.job.output):
            return True
        try:
            held = read_json(Path(self.job.output))
        except CheckpointError:
            return True
        if held.pop(MADE_BY, None) != self._made_by():
            return True
        self._status, self._described = "skipped", held | {"file": self.name}  # the folder may have moved
        return False

    def add(self, values_LTD: np.ndarray) -> None:
        """Take the frames of the next window."""
        self._n_frames += values_LTD.shape[1]
        self._stage.on_audio(values_LTD.shape[1] / self._stage.describer.frame_rate)
        self._analysis.add(values_LTD)

    def finish(self) -> None:
        """Conclude, and write the file."""
        if self._status == "skipped":
            return
        self._status = "damaged" if self.damaged else "ok"
        self._described = self._analysis.description().as_dict()
        made_by = self._made_by() if self.job.output else None
        if stamp(self.job.source) != self._stamp:  # after its hash: description and hash are of the same bytes
            raise AudioError(self.job.source, "it changed while it was read", "describe it again when it is complete")
        if self.job.output:
            write_json(Path(self.job.output), self._described | {MADE_BY: made_by})

    def row(self) -> Row:
        """The row of a file that is finished or has failed."""
        kept = self._described or {}
        return asdict(self.job) | {
            "status": "failed" if self.error else self._status,
            "seconds": self.seconds,
            "frames": 0 if self.error else self._n_frames,
            "warnings": kept["warnings"] if self._status == "skipped" else self.warnings,
            "error": str(self.error) if self.error else None,
            "elapsed_s": time.perf_counter() - self._started,
            "description": None if self.error else self._described,
        }

    def _made_by(self) -> dict[str, Any]:
        return self._stage.made_by | {"source_sha256": sha256_file(self.job.source)}
