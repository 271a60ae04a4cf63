"""EmbedStage: from each recording a features file and a row of the report.

Outputs are whole or absent, and with `skip_existing` they are written again only where they are missing or were
extracted in another way, so a job can be killed and run again.
Shapes: L layers, T frames, D model width.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import ExitStack, closing, suppress
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from mert.collection.extraction import Extraction, extract, resolve
from mert.collection.plan import Job
from mert.embedding.embedder import EmbedOptions, Layers
from mert.embedding.features import Features, Pooling, Provenance, differences, header
from mert.embedding.load import load
from mert.embedding.npz import FrameWriter, fitting
from mert.errors import AudioError, OutputError
from mert.files import sha256_file, stamp, sweep

Row = dict[str, Any]


class Stage(Protocol):
    """The work of a job: a row for each recording, none of which is an exception."""

    def rows(self, jobs: Iterable[Job]) -> Iterator[Row]: ...


class StageOptions(Protocol):
    """Options of a job, which travel between processes: each makes the stage for itself."""

    @property
    def device(self) -> str: ...

    def stage(self) -> Stage: ...


@dataclass(frozen=True)
class JobOptions(EmbedOptions):
    """What every worker of a job must know: plain values that travel between processes."""

    model: str
    _: KW_ONLY
    layers: Layers = "recommended"
    save_dtype: Literal["float16", "float32"] = "float16"
    revision: str | None = None
    device: str = "auto"
    skip_existing: bool = False

    def stage(self) -> Stage:
        """What does the work, in each process."""
        return EmbedStage(self)


class EmbedStage:
    """Features of files: `stage.rows(jobs)` yields one row per job, in order, and short files share batches.

    A row has source, output, status (ok, damaged, skipped, failed), seconds (of audio), frames, elapsed_s, warnings
    and error.
    """

    def __init__(self, options: JobOptions) -> None:
        self.options = options
        self.embedder = load(options.model, revision=options.revision, device=options.device)
        self.settings = resolve(self.embedder, options)
        self.on_audio: Callable[[float], None] = lambda seconds: None  # called as seconds of audio are computed

    def differing(self, meta: Mapping[str, Any]) -> list[str]:
        """Names of the facts in which features with such a `meta` differ from those that the stage makes."""
        names, pool = list(self.embedder.names(self.settings)), self.settings.pool
        wanted = {"layers": names, "pool": pool, "save_dtype": self.options.save_dtype}
        found = differences(Provenance.of(meta), self.embedder.provenance(self.settings))
        return found + [fact for fact in wanted if meta.get(fact) != wanted[fact]]

    def rows(self, jobs: Iterable[Job]) -> Iterator[Row]:
        """The rows; none is an exception, as failed files have a row with their error."""
        with closing(extract(self.embedder, self.settings, (FileExtraction(job, self) for job in jobs))) as files:
            for file in files:
                yield file.row()


class Report:
    """The report, one line per file: several commands may append to one, and lines that a full disk refuses wait.

    Without `append` it begins with the lines before of files that are there, and are not among the `outputs` to come.
    """

    def __init__(self, path: Path, append: bool, outputs: Set[str] = frozenset()) -> None:
        if not append:
            coming = {os.path.abspath(output) for output in outputs}
            kept = b"".join(line + b"\n" for line in _lines(path) if _stays(line, path.parent, coming))
            path.write_bytes(kept)  # in place: another command may be appending to it
        self._path = path
        self._file = open(path, "ab", 0)  # noqa: SIM115 - unbuffered appends do not mix with those of others
        self._outputs, self._waiting, self.error = set(), b"", ""
        before = path.read_bytes()
        if before and not before.endswith(b"\n"):  # a line that a kill cut off must not swallow the next
            self._waiting = b"\n"
        for line in before.split(b"\n"):
            with suppress(ValueError, KeyError, TypeError):  # a line that a kill cut off
                row = json.loads(line)
                if row["status"] != "failed":
                    self._outputs.add(row["output"])

    def add(self, row: Row) -> None:
        """Write a line, unless the file is skipped and has one (a run that was killed may not have written it)."""
        if row["status"] != "skipped" or row["output"] not in self._outputs:
            self._waiting += json.dumps(row).encode() + b"\n"
            self._flush()

    def close(self) -> None:
        """Try once more to write what waits; `error` says why that fails, or that the report was removed."""
        self._flush()
        self._file.close()
        if not self._path.exists():
            self.error = "the report was removed while the command ran"

    def _flush(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
            self.error = ""
        except OSError as error:
            self.error = str(error.strerror)


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def _stays(line: bytes, home: Path, coming: Set[str]) -> bool:
    """Whether a line of the report in `home` is of a file that the run has nothing to do with, and is still so."""
    try:
        row = json.loads(line)
        if row["status"] == "failed":
            return os.path.exists(row["source"]) and os.path.abspath(row["output"]) not in coming
        output = _found(row["output"], home)
        return output is not None and os.path.abspath(output) not in coming
    except (ValueError, KeyError, TypeError):
        return False


def _found(output: str, home: Path) -> Path | None:
    """An output that a report names, wherever the command was given, and wherever the folder was moved since."""
    parts = Path(output).parts
    places = (Path(output), *(home.joinpath(*parts[i:]) for i in range(1, len(parts))))
    return next((place for place in places if place.exists()), None)


class FileExtraction(Extraction):
    """The features file of one job, and its row."""

    def __init__(self, job: Job, stage: EmbedStage) -> None:
        super().__init__(job.source)
        self.job, self._stage, self._started = job, stage, time.perf_counter()
        self._status, self._n_frames = "ok", 0
        self._stamp: tuple[int, ...] = ()
        self._reasons: list[str] = []  # why an existing output is replaced
        self._open = ExitStack()
        self._writer: FrameWriter | None = None
        self._pooled = Pooling(stage.settings.pool) if stage.settings.pool else None

    def is_needed(self) -> bool:
        """Whether the output is missing, damaged, or extracted in another way than now asked for."""
        self._stamp = stamp(self.job.source)
        if not self._stage.options.skip_existing or not os.path.exists(self.job.output):
            return True
        try:
            existing = Features.load_meta(self.job.output)
        except (OutputError, ValueError, TypeError) as error:
            self._reasons.append(f"made again: {getattr(error, 'reason', 'not a features file')}")
            return True
        wanted = self._meta()
        also = [fact for fact in ("source_sha256", "version") if existing.get(fact) != wanted[fact]]
        if differing := self._stage.differing(existing) + also:
            self._reasons.append(f"made again: the existing output differs in {', '.join(differing)}")
            return True
        self._status = "skipped"
        sweep(Path(self.job.output).parent)
        return False

    def add(self, values_LTD: np.ndarray) -> None:
        """Write frames, or add them to the mean."""
        self._n_frames += values_LTD.shape[1]
        self._stage.on_audio(values_LTD.shape[1] / self._stage.embedder.frame_rate)
        if self._pooled:
            self._pooled.add(values_LTD)
            return
        if self._writer is None:
            self._writer = self._open.enter_context(FrameWriter(self.job.output, self._stage.options.save_dtype))
        self._writer.add(values_LTD)

    def finish(self) -> None:
        """Put the output in its place."""
        if self._status == "skipped":
            return
        self._status = "damaged" if self.damaged else "ok"
        embedder, names, meta = self._stage.embedder, self._stage.embedder.names(self._stage.settings), self._meta()
        if stamp(self.job.source) != self._stamp:  # after its hash: features and hash are of the same bytes
            raise AudioError(self.job.source, "it changed while it was read", "embed it again when it is complete")
        if self._pooled:
            values_LD = fitting(self._pooled.result(), self._stage.options.save_dtype, self.job.output)
            Features(values_LD, None, names, meta).save(self.job.output)
        elif self._writer:
            self._writer.finish(**header(names, meta, embedder.clock.times(0, self._n_frames)))

    def close(self) -> None:
        """Remove what was written beside the output."""
        self._open.close()

    def row(self) -> Row:
        """The row of a file that is finished or has failed."""
        return asdict(self.job) | {
            "status": "failed" if self.error else self._status,
            "seconds": self.seconds,
            "frames": 0 if self.error else self._n_frames,
            "warnings": self._reasons + self.warnings,
            "error": str(self.error) if self.error else None,
            "elapsed_s": time.perf_counter() - self._started,
        }

    def _meta(self) -> dict[str, Any]:
        meta = self._stage.embedder.meta(self, self._stage.settings)
        return meta | {"source_sha256": sha256_file(self.job.source), "save_dtype": self._stage.options.save_dtype}
