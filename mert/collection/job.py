"""EmbedStage: recordings in, a features file and a report row for each out.

A stage never raises: each file gives one row, with its features written or its error. Outputs are whole or absent,
and made anew only where they are missing or were made in another way, so a job can be killed and run again.
Shapes: L layers, T frames, D model width.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mert.audio.recording import Recording
from mert.collection.plan import Job
from mert.embedding.embedder import Embedder, Layers
from mert.embedding.features import Features, Pool, Pooling
from mert.embedding.npz import FrameWriter, fitting, sweep
from mert.errors import MertError, OutputError
from mert.files import sha256_file

Row = dict[str, Any]


@dataclass(frozen=True)
class EmbedOptions:
    """What every worker of a job must know: plain values that travel between processes."""

    model: str
    layers: Layers = "last"
    pool: Pool = None
    window: float | str | None = None
    hop: float | None = None
    dtype: str = "auto"
    save_dtype: Literal["float16", "float32"] = "float16"
    batch_size: int | str = "auto"
    max_seconds: float | None = None
    revision: str | None = None
    device: str = "auto"
    skip_existing: bool = False


class EmbedStage:
    """Features of files: `stage.rows(jobs)` gives a row for each, in order, and short files share batches.

    The model is loaded once a worker. `row` has source, output, status (ok, skipped, failed), seconds (of audio),
    frames, elapsed_s, warnings and error.
    """

    FACTS = (
        "weights_sha256", "layers", "pool", "window_frames", "hop_frames", "normalize", "dtype", "save_dtype",
        "source_sha256", "version",
    )  # fmt: skip

    def __init__(self, options: EmbedOptions) -> None:
        from mert.embedding.load import load

        self.options = options
        self.embedder = load(options.model, revision=options.revision, device=options.device)
        layers = recommended(self.embedder) if options.layers == "last" else options.layers
        self.settings = self.embedder.settings(
            layers, options.pool, options.window, options.hop, options.dtype, options.batch_size
        )

    def __call__(self, job: Job) -> Row:
        return next(self.rows([job]))

    def rows(self, jobs: Iterable[Job]) -> Iterator[Row]:
        """A row a job, in order. What a failed file shared a batch with is heard again."""
        waiting, later = deque[Job](), iter(jobs)
        while True:
            begun = deque[_Work]()
            try:
                yield from self._until_an_error(_drained(waiting, later), begun)
                return
            except Exception as raised:
                error = raised
            finally:
                for work in begun:
                    work.close()
            while begun and begun[0].row["status"] == "skipped":
                yield begun.popleft().ended()
            if not begun:
                raise error
            yield begun.popleft().failed(error)
            waiting.extendleft(work.job for work in reversed(begun))

    def _until_an_error(self, jobs: Iterator[Job], begun: deque[_Work]) -> Iterator[Row]:
        """Rows, until one file fails: that is then the first of `begun`, which is read further than rows are given."""
        recordings = self._begin(jobs, begun)
        with closing(self.embedder.pieces(recordings, self.settings, self.options.max_seconds)) as pieces:
            for recording, span, values_LTD in pieces:
                if span is not None and values_LTD is not None:
                    stop_if_asked()
                    begun[0].add(values_LTD)
                    continue
                if recording is not None:
                    begun[0].finish()
                yield begun.popleft().ended()

    def _begin(self, jobs: Iterator[Job], begun: deque[_Work]) -> Iterator[Recording | None]:
        """The recordings of jobs, None for those that have their output; each job is appended to `begun`."""
        for job in jobs:
            stop_if_asked()
            work = _Work(job, self)
            begun.append(work)
            if self.options.skip_existing and self._is_made(job, work.row):
                work.row["status"] = "skipped"
                sweep(Path(job.output).parent)
                yield None
            else:
                yield work.recording

    def identity(self, job: Job) -> dict[str, Any]:
        """What an output must agree in to count as made."""
        return {"source_sha256": sha256_file(job.source), "save_dtype": self.options.save_dtype}

    def _is_made(self, job: Job, row: Row) -> bool:
        """Whether the output is there, whole, and made in the way now asked for."""
        if not os.path.exists(job.output):
            return False
        try:
            made = Features.load_meta(job.output)
        except (OutputError, ValueError, TypeError) as error:
            row["warnings"].append(f"made again: {getattr(error, 'reason', 'not a features file')}")
            return False
        wanted = self.embedder.meta(Recording(job.source), self.settings) | self.identity(job)
        wanted["layers"] = list(self.embedder.names(self.settings))
        differing = [fact for fact in self.FACTS if made.get(fact) != wanted[fact]]
        if differing:
            row["warnings"].append(f"made again: the existing output differs in {', '.join(differing)}")
        return not differing


class _Work:
    """One file on its way: its recording, its row, and where its frames go."""

    def __init__(self, job: Job, stage: EmbedStage) -> None:
        self.job, self._stage, self._started = job, stage, time.perf_counter()
        self.recording = Recording(job.source)
        self.row: Row = asdict(job) | {"status": "ok", "seconds": 0.0, "frames": 0, "warnings": [], "error": None}
        self._open = ExitStack()
        self._writer: FrameWriter | None = None
        pool = stage.settings.pool
        self._pooled = Pooling(pool) if pool else None

    def add(self, values_LTD: np.ndarray) -> None:
        """Write frames, or add them to the mean."""
        if self._pooled:
            self._pooled.add(values_LTD)
            return
        if self._writer is None:
            writer = FrameWriter(self.job.output, self._stage.options.save_dtype)
            self._writer = self._open.enter_context(writer)
        self._writer.add(values_LTD)

    def finish(self) -> None:
        """Put the output in its place."""
        embedder, settings = self._stage.embedder, self._stage.settings
        meta = embedder.meta(self.recording, settings) | self._stage.identity(self.job)
        n_frames = embedder.clock.n_frames(round(self.recording.seconds * embedder.sample_rate))
        if self._pooled:
            values_LD = fitting(self._pooled.result(), self._stage.options.save_dtype, self.job.output)
            Features(values_LD, None, embedder.names(settings), meta).save(self.job.output)
        elif self._writer:
            n_frames = self._writer.n_frames
            self._writer.finish(
                times=embedder.clock.times(0, n_frames),
                layers=np.array(embedder.names(settings)),
                meta=np.array(json.dumps(meta)),
            )
        self.row["frames"] = n_frames

    def close(self) -> None:
        """Remove what was written beside the output."""
        self._open.close()

    def ended(self) -> Row:
        """The row as it stands."""
        self.close()
        self.row["warnings"] += self.recording.warnings
        return self.row | {"seconds": self.recording.seconds, "elapsed_s": time.perf_counter() - self._started}

    def failed(self, error: Exception) -> Row:
        """The row of a failure: whatever a file does to its decoder, the others go on."""
        known = isinstance(error, MertError)
        self.row["error"] = str(error) if known else f"{self.job.source}: {type(error).__name__}: {error}"
        self.row["status"] = "failed"
        return self.ended()


def _drained(waiting: deque[Job], later: Iterator[Job]) -> Iterator[Job]:
    """First what waits, each taken away as it is given, then what comes later."""
    while waiting:
        yield waiting.popleft()
    for job in later:  # noqa: UP028 - where a file fails this is closed, and `later` must not be with it
        yield job


def recommended(embedder: Embedder) -> str:
    """The layer the registry recommends for a model, else its last."""
    return embedder.info.recommended_layer or embedder.layer_names[-1]


interrupts: list[bool] = []  # a Ctrl-C that `mert.collection.executors.run_here` has seen


def stop_if_asked() -> None:
    """KeyboardInterrupt, if Ctrl-C was pressed while `run_here` works."""
    if interrupts:
        raise KeyboardInterrupt
