"""Corpus jobs: one stage class that embeds a file, run in this process, in several, or on Ray.

A stage never raises: each file gives one row, with its features written or its error. Outputs are whole or absent,
and made anew only where they are missing or were made in another way, so a job can be killed and run again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mert.audio import Recording
from mert.embed import Embedder, Layers
from mert.errors import MertError, OutputError
from mert.features import Features, Pool
from mert.inputs import Job
from mert.npz import FrameWriter

Row = dict[str, Any]


@dataclass(frozen=True)
class EmbedOptions:
    """What every worker of a job must know: plain values that travel between processes."""

    model: str
    layers: Layers = "last"
    pool: Pool = None
    window: float | str | None = None
    hop: float | None = None
    dtype: str = "float32"
    save_dtype: Literal["float16", "float32"] = "float16"
    batch_size: int | str = "auto"
    max_seconds: float | None = None
    revision: str | None = None
    device: str = "auto"
    skip_existing: bool = False


class EmbedStage:
    """Features of one file a call: `stage(job) -> row` with status ok, skipped or failed.

    The model is loaded once a worker. `row` has source, output, status, seconds (of audio), frames, elapsed_s,
    warnings and error.
    """

    FACTS = (
        "weights_sha256", "layers", "pool", "window_frames", "hop_frames", "normalize", "dtype", "save_dtype",
        "source_bytes",
    )  # fmt: skip

    def __init__(self, options: EmbedOptions) -> None:
        from mert.hub import load

        self.options = options
        self.embedder = load(options.model, revision=options.revision, device=options.device)
        layers = recommended(self.embedder) if options.layers == "last" else options.layers
        self.settings = self.embedder.settings(
            layers, options.pool, options.window, options.hop, options.dtype, options.batch_size
        )

    def __call__(self, job: Job) -> Row:
        started = time.perf_counter()
        row: Row = asdict(job) | {"status": "ok", "seconds": 0.0, "frames": 0, "warnings": [], "error": None}
        recording = Recording(job.source)
        try:
            if self.options.skip_existing and self._is_made(job, row):
                return row | {"status": "skipped"}
            row["frames"] = self._embed(recording, job)
        except MertError as error:
            row |= {"status": "failed", "error": str(error)}
        except (OSError, RuntimeError, MemoryError) as error:
            row |= {"status": "failed", "error": f"{job.source}: {type(error).__name__}: {error}"}
        row["warnings"] += recording.warnings
        return row | {"seconds": recording.seconds, "elapsed_s": time.perf_counter() - started}

    def _embed(self, recording: Recording, job: Job) -> int:
        options, embedder, settings = self.options, self.embedder, self.settings
        if settings.pool:
            (pooled,) = embedder.features(iter([recording]), settings, options.max_seconds)
            pooled.meta |= self._identity(job)
            pooled.values = pooled.values.astype(options.save_dtype)
            pooled.save(job.output)
            return embedder.clock.n_frames(round(recording.seconds * embedder.sample_rate))
        with FrameWriter(job.output, options.save_dtype) as writer:
            for _, values_LTD in embedder.frames(recording, settings, options.max_seconds):
                writer.add(values_LTD)
            meta = embedder.meta(recording, settings) | self._identity(job)
            writer.finish(
                times=embedder.clock.times(0, writer.n_frames),
                layers=np.array(embedder.names(settings)),
                meta=np.array(json.dumps(meta)),
            )
        return writer.n_frames

    def _identity(self, job: Job) -> dict[str, Any]:
        """What an output must agree in to count as made."""
        return {"source_bytes": os.path.getsize(job.source), "save_dtype": self.options.save_dtype}

    def _is_made(self, job: Job, row: Row) -> bool:
        """Whether the output is there, whole, and made in the way now asked for."""
        if not os.path.exists(job.output):
            return False
        try:
            made = Features.load_meta(job.output)
        except OutputError as error:
            row["warnings"].append(f"made again: {error.reason}")
            return False
        wanted = self.embedder.meta(Recording(job.source), self.settings) | self._identity(job)
        wanted["layers"] = list(self.embedder.names(self.settings))
        differing = [fact for fact in self.FACTS if made.get(fact) != wanted[fact]]
        if differing:
            row["warnings"].append(f"made again: the existing output differs in {', '.join(differing)}")
        return not differing


def recommended(embedder: Embedder) -> str:
    """The layer the registry recommends for a model, else its last."""
    return embedder.info.recommended_layer or embedder.layer_names[-1]


def run(jobs: Iterable[Job], options: EmbedOptions, executor: str = "local", workers: int = 1) -> Iterator[Row]:
    """Rows of all jobs as they end: in this process, in `workers` processes, or on Ray ("local", "ray")."""
    if executor == "ray":
        return _run_ray(jobs, options, workers)
    return map(EmbedStage(options), jobs) if workers == 1 else _run_processes(jobs, options, workers)


_stage: EmbedStage  # one a worker process


def _start_worker(options: EmbedOptions, threads: int) -> None:
    import torch

    global _stage
    torch.set_num_threads(threads)
    _stage = EmbedStage(options)


def _work(job: Job) -> Row:
    return _stage(job)


def _run_processes(jobs: Iterable[Job], options: EmbedOptions, workers: int) -> Iterator[Row]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    left, done = dict.fromkeys(jobs), 1
    while left and done:  # a killed worker breaks its pool: go on with a new one, as long as something gets done
        done = 0
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (options, threads)) as pool:
            futures = {pool.submit(_work, job): job for job in left}
            try:
                for future in as_completed(futures):
                    row = future.result()
                    done += 1
                    del left[futures[future]]
                    yield row
            except BrokenProcessPool:
                continue
    for job in left:
        yield asdict(job) | {"status": "failed", "seconds": 0.0, "frames": 0, "warnings": [], "elapsed_s": 0.0,
                             "error": f"{job.source}: the worker process died; try --workers 1 or fewer layers"}  # fmt: skip


class _RayStage:
    """The same stage as Ray Data calls it: a batch of one job in, one row out."""

    def __init__(self, options: EmbedOptions) -> None:
        self.stage = EmbedStage(options)

    def __call__(self, row: Row) -> Row:
        return {"row": json.dumps(self.stage(Job(row["source"], row["output"])))}


def _run_ray(jobs: Iterable[Job], options: EmbedOptions, workers: int) -> Iterator[Row]:
    try:
        import ray
    except ImportError:
        raise MertError("--executor ray", "Ray is not installed", 'pip install -e ".[jobs]"') from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    here = str(Path.cwd())
    items = [{"source": os.path.join(here, job.source), "output": os.path.join(here, job.output)} for job in jobs]
    table = ray.data.from_items(items)
    rows = table.map(_RayStage, fn_constructor_args=(options,), concurrency=workers, num_cpus=1)
    for row in rows.iter_rows():
        yield json.loads(row["row"])
