"""Corpus jobs: one stage class that embeds a file, run in this process, in several, or on Ray.

A stage never raises: each file gives one row, with its features written or its error. Outputs are whole or absent,
and made anew only where they are missing or were made in another way, so a job can be killed and run again.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from mert.audio import Recording
from mert.embed import Embedder, Layers
from mert.errors import MertError, OutputError
from mert.features import Features, Pool
from mert.files import sha256_file
from mert.inputs import Job
from mert.npz import FrameWriter, sweep

Row = dict[str, Any]
Task = TypeVar("Task")
Done = TypeVar("Done")


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
        "source_sha256", "version",
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
                sweep(Path(job.output).parent)
                return row | {"status": "skipped"}
            row["frames"] = self._embed(recording, job)
        except MertError as error:
            row |= {"status": "failed", "error": str(error)}
        except Exception as error:  # whatever a file does to its decoder, the others go on
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
                stop_if_asked()
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
    return run_here(EmbedStage(options), jobs) if workers == 1 else _run_processes(jobs, options, workers)


def run_here(stage: Callable[[Task], Done], jobs: Iterable[Task]) -> Iterator[Done]:
    """What a stage makes of each job, in this process.

    Ctrl-C takes effect between windows: raised within a decoder's callback it would be lost, and the file cut off.
    """
    if threading.current_thread() is not threading.main_thread():
        yield from map(stage, jobs)
        return
    before = signal.signal(signal.SIGINT, lambda *_: _interrupts.append(True))
    try:
        for job in jobs:
            yield stage(job)
            stop_if_asked()
    finally:
        _interrupts.clear()
        signal.signal(signal.SIGINT, before)


_interrupts: list[bool] = []


def stop_if_asked() -> None:
    """KeyboardInterrupt, if Ctrl-C was pressed while `run_here` works."""
    if _interrupts:
        raise KeyboardInterrupt


_stage: EmbedStage  # one a worker process


def _start_worker(options: EmbedOptions, threads: int) -> None:
    global _stage
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _stage = EmbedStage(options)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _work(job: Job) -> Row:
    return _stage(job)


def _run_processes(jobs: Iterable[Job], options: EmbedOptions, workers: int) -> Iterator[Row]:
    left = deque(jobs)
    while left:
        for job in (yield from _run_pool(left, options, workers)):  # each may have killed a worker: try them alone
            if (yield from _run_pool(deque([job]), options, 1)):
                error = f"{job.source}: the worker process died; try --workers 1 or fewer layers"
                yield asdict(job) | {"status": "failed", "seconds": 0.0, "frames": 0, "warnings": [],
                                     "error": error, "elapsed_s": 0.0}  # fmt: skip


def _run_pool(left: deque[Job], options: EmbedOptions, workers: int) -> Generator[Row, None, list[Job]]:
    """Take jobs from `left` until none are; returns early, with the jobs then at work, where a worker dies."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    running: dict[Future[Row], Job] = {}
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (options, threads)) as pool:
        try:
            while left or running:
                while left and len(running) < 2 * workers:  # no more, so that Ctrl-C need not wait for all
                    running[pool.submit(_work, left[0])] = left[0]
                    left.popleft()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    row = future.result()
                    del running[future]
                    yield row
        except BrokenProcessPool:
            pass
    return list(running.values())


class _RayStage:
    """The same stage as Ray Data calls it: a batch of one job in, one row out."""

    def __init__(self, options: EmbedOptions, folder: str) -> None:
        with suppress(OSError):  # where relative paths start; a node that has no such folder needs absolute ones
            os.chdir(folder)
        self.stage = EmbedStage(options)

    def __call__(self, row: Row) -> Row:
        return {"row": json.dumps(self.stage(Job(**json.loads(row["job"]))))}


def started_ray() -> Any:
    """The ray module, on the cluster at hand or on one embedded in this process."""
    try:
        import ray
    except ImportError:
        raise MertError("--executor ray", "Ray is not installed", 'pip install -e ".[jobs]"') from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def _run_ray(jobs: Iterable[Job], options: EmbedOptions, workers: int) -> Iterator[Row]:
    ray = started_ray()
    items = [{"job": json.dumps(asdict(job))} for job in jobs]  # JSON, because Arrow takes no names that are not UTF-8
    table = ray.data.from_items(items, override_num_blocks=max(1, min(len(items), 1000)))
    actors = ray.data.ActorPoolStrategy(size=workers)
    stage: Any = _RayStage
    gpus = 1 if options.device != "cpu" and torch.cuda.is_available() else 0  # Ray hides GPUs nobody asked for
    rows = table.map(stage, fn_constructor_args=(options, os.getcwd()), compute=actors, num_cpus=1, num_gpus=gpus)
    for row in rows.iter_rows():
        yield json.loads(row["row"])
