"""The benchmark of 14 music information retrieval tasks: datasets, runs, statistics, reports, synthetic music."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

# Where each public name lives; imported when first used, so that `mert --help` does not wait for torch.
_HOMES = {
    "TASKS": "mir_benchmarks.tasks.registry",
    "TaskSpec": "mir_benchmarks.tasks.registry",
    "Options": "mir_benchmarks.tasks.kind",
    "run_task": "mir_benchmarks.tasks.run",
}

__all__ = ["TASKS", "Options", "TaskSpec", "run_task"]

if TYPE_CHECKING:
    from mir_benchmarks.tasks.kind import Options
    from mir_benchmarks.tasks.registry import TASKS, TaskSpec
    from mir_benchmarks.tasks.run import run_task


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
