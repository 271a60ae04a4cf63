"""Jobs of numbered shards: one call each, in this process, in several, or on Ray, with results in order."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mert.collection.executors import fresh_processes, resources_of_an_actor, start_quietly, started_ray
from mert.errors import MertError

T = TypeVar("T")
_stage: Callable[[int], Any]  # one per worker process


def run_numbered(
    stage: Callable[[int], T], n: int, executor: str = "local", workers: int = 1, device: str = "cpu"
) -> Iterator[T]:
    """`stage(0)` to `stage(n - 1)`, in order; the results must be plain JSON values. On Ray, actors ask for a `device`.

    A stage that writes whole files, and leaves those that exist, makes a job that can be stopped and run again.
    MertError if a worker process dies.
    """
    if executor == "ray":
        yield from _on_ray(stage, n, workers, device)
    elif workers == 1:
        yield from map(stage, range(n))
    else:
        yield from _in_processes(stage, n, workers)


def _in_processes(stage: Callable[[int], T], n: int, workers: int) -> Iterator[T]:
    waiting: deque[Future[T]] = deque()
    with ProcessPoolExecutor(workers, fresh_processes(), _start, (stage,)) as pool:
        try:
            for number in range(n):
                waiting.append(pool.submit(_call, number))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            remedy = "run the same command again, perhaps with fewer --workers"
            raise MertError("a worker process", "died (killed, or out of memory)", remedy) from None
        finally:
            for future in waiting:
                future.cancel()


def _start(stage: Callable[[int], Any]) -> None:
    global _stage
    start_quietly(1)
    _stage = stage


def _call(number: int) -> Any:
    return _stage(number)


class _RayStage:
    """A stage as Ray Data calls it."""

    def __init__(self, stage: Callable[[int], Any]) -> None:
        self.stage = stage

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        number = int(row["number"])
        return {"number": number, "result": json.dumps(self.stage(number))}  # Arrow takes no nested rows of all types


def _on_ray(stage: Callable[[int], T], n: int, workers: int, device: str) -> Iterator[T]:
    ray = started_ray()
    rows = ray.data.from_items([{"number": number} for number in range(n)], override_num_blocks=max(1, min(n, 1000)))
    actors: Any = ray.data.ActorPoolStrategy(size=workers)
    kind: Any = _RayStage
    mapped = rows.map(kind, fn_constructor_args=(stage,), compute=actors, **resources_of_an_actor(ray, device))
    early: dict[int, T] = {}
    expected = 0
    for row in mapped.iter_rows():
        early[int(row["number"])] = json.loads(row["result"])
        while expected in early:
            yield early.pop(expected)
            expected += 1
