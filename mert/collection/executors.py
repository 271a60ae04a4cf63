"""Executors of a corpus job: the same stage in this process, in several, or on Ray."""

import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import asdict, replace
from multiprocessing import get_all_start_methods, get_context, parent_process
from typing import Any

from mert.collection.job import Row, Stage, StageOptions
from mert.collection.plan import Job
from mert.errors import need
from mert.weights.networks import has_torch

SMALL_BYTES = 8 << 20  # of files that one worker takes together, so that short ones share batches


def run(
    jobs: Iterable[Job], options: StageOptions, executor: str = "local", workers: int = 1,
    on_start: Callable[[Any], None] = lambda stage: None,
) -> Iterator[Row]:  # fmt: skip
    """Rows of all jobs as they end: in this process, in `workers` processes, or on Ray ("local", "ray").

    The model is loaded here first, so that wrong options are errors at once and workers find the weights on the disk;
    `on_start` receives it before any work begins.
    """
    stage = options.stage()
    on_start(stage)
    if executor == "local" and workers == 1:
        return stage.rows(jobs)
    return (_run_ray if executor == "ray" else _run_processes)(jobs, options, workers)


def bundles(jobs: Iterable[Job], workers: int) -> list[list[Job]]:
    """Jobs as workers take them: small neighbours together, and several bundles for each worker."""
    jobs = list(jobs)
    max_jobs = min(16, max(1, len(jobs) // (4 * workers)))
    bundled: list[list[Job]] = []
    room = 0
    for job in jobs:
        size = SMALL_BYTES
        with suppress(OSError):  # its error comes when it is tried
            size = os.path.getsize(job.source)
        if not bundled or size > room or len(bundled[-1]) == max_jobs:
            bundled.append([])
            room = SMALL_BYTES
        bundled[-1].append(job)
        room -= size
    return bundled


_stage: Stage  # one per worker process


def device_of(worker: int, device: str, n_gpus: int) -> str:
    """The device of a worker: where there are several GPUs and none was named, workers take turns at them.

    >>> [device_of(worker, "auto", 2) for worker in range(3)], device_of(1, "cuda:0", 2), device_of(1, "auto", 0)
    (['cuda:0', 'cuda:1', 'cuda:0'], 'cuda:0', 'auto')
    """
    return f"cuda:{worker % n_gpus}" if device in ("auto", "cuda") and n_gpus > 1 else device


def n_gpus() -> int:
    """GPUs that torch sees; none without torch."""
    if not has_torch():
        return 0
    import torch

    return torch.cuda.device_count()


def _start_worker(options: Any, threads: int, count: Any) -> None:  # StageOptions
    global _stage
    with count.get_lock():
        count.value += 1
        options = replace(options, device=device_of(count.value - 1, options.device, n_gpus()))
    start_quietly(threads)
    _stage = options.stage()


def start_quietly(threads: int) -> None:
    """Begin a worker process: its parent decides about Ctrl-C, and when it ends, so does the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # onnxruntime's runner reads it
    if has_torch():
        import torch

        torch.set_num_threads(threads)


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _work(jobs: list[Job]) -> list[Row]:
    return list(_stage.rows(jobs))


def _run_processes(jobs: Iterable[Job], options: StageOptions, workers: int) -> Iterator[Row]:
    left = deque(bundles(jobs, workers))
    while left:
        # Each of the jobs in progress may have killed a worker: one worker tries them one by one.
        suspects = deque([job] for job in (yield from _run_pool(left, options, workers)))
        while suspects:
            if unfinished := (yield from _run_pool(suspects, options, 1)):
                job, *others = unfinished
                suspects.extendleft([other] for other in reversed(others))
                error = f"{job.source}: the worker process died; try --workers 1 or fewer layers"
                yield asdict(job) | {"status": "failed", "seconds": 0.0, "frames": 0, "warnings": [],
                                     "error": error, "elapsed_s": 0.0}  # fmt: skip


def _run_pool(left: deque[list[Job]], options: StageOptions, workers: int) -> Generator[Row, None, list[Job]]:
    """Take bundles from `left` until none are; returns early where a worker dies, with the jobs in progress, in order.

    A single worker takes bundles in order, so the first of its unfinished jobs is the one at which it died.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    running: dict[Future[list[Row]], list[Job]] = {}
    processes = fresh_processes()
    start = options, threads, processes.Value("i", 0)
    with ProcessPoolExecutor(workers, processes, _start_worker, start) as pool:
        try:
            while left or running:
                while left and len(running) < 2 * workers:  # no more, so that Ctrl-C need not wait for all
                    running[pool.submit(_work, left[0])] = left[0]
                    left.popleft()
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in [future for future in running if future in done]:  # in order
                    rows = future.result()
                    del running[future]
                    yield from rows
        except BrokenProcessPool:
            pass
    return [job for jobs in running.values() for job in jobs]


def fresh_processes() -> Any:
    """How workers start: as forks of a process that has imported torch and this job once, where the system forks."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    from multiprocessing import forkserver

    context = get_context("forkserver")
    context.set_forkserver_preload(["mert.collection.job", "mert.weights.checkpoints", "mert.inference.runner"])
    # The server inherits the signals that this thread blocks: without SIGCHLD it never learns that a fork has ended.
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return context


class _RayStage:
    """The stage as Ray Data calls it: takes a bundle of jobs, returns a row for each."""

    def __init__(self, options: StageOptions, folder: str) -> None:
        with suppress(OSError):  # where relative paths start; a node that has no such folder needs absolute ones
            os.chdir(folder)
        self.stage = options.stage()

    def __call__(self, bundle: Row) -> list[Row]:
        jobs = [Job(**job) for job in json.loads(bundle["jobs"])]
        return [{"row": json.dumps(row)} for row in self.stage.rows(jobs)]


def started_ray() -> Any:
    """The ray module, on the cluster at hand or on one embedded in this process."""
    ray = need("ray", "jobs", "--executor ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray


def resources_of_an_actor(ray: Any, device: str) -> dict[str, int]:
    """What an actor asks of Ray: a core, and a GPU if the device may be one and the cluster has any."""
    return {"num_cpus": 1, "num_gpus": 1 if device != "cpu" and ray.cluster_resources().get("GPU") else 0}


def _run_ray(jobs: Iterable[Job], options: StageOptions, workers: int) -> Iterator[Row]:
    ray = started_ray()
    # JSON, because Arrow takes no names that are not UTF-8
    items = [{"jobs": json.dumps([asdict(job) for job in bundle])} for bundle in bundles(jobs, workers)]
    table = ray.data.from_items(items, override_num_blocks=max(1, min(len(items), 1000)))
    actors = ray.data.ActorPoolStrategy(size=workers)
    stage: Any = _RayStage
    asked = resources_of_an_actor(ray, options.device)
    rows = table.flat_map(stage, fn_constructor_args=(options, os.getcwd()), compute=actors, **asked)
    for row in rows.iter_rows():
        yield json.loads(row["row"])
