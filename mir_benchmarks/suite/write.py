"""Write the suite: corpus by corpus, in several processes; resumable, and marked as whole when it is."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from mert.files import read_json, write_json, write_whole
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.suite.clips import CORPORA, Plan, Recording
from mir_benchmarks.suite.sizes import SIZES, Extent

VERSION = "1"
MODULES = {"mtg-jamendo": "jamendo", "musdb18": "musdb"}
NOTE = "SYNTHETIC.json"  # written last: a corpus with it is whole
CLAIM = "suite.json"
BATCH = 8  # recordings for a worker at a time

Tell = Callable[[str, int, int], None]  # corpus, recordings that are there, recordings in all


def write_suite(
    home: str | Path,
    size: str = "tiny",
    seed: int = 0,
    workers: int = 1,
    corpora: Iterable[str] | None = None,
    tell: Tell | None = None,
) -> Path:
    """Write the `corpora` (all eight) below `home`, which is returned: the `data_home` of the benchmark.

    A run that was cut is resumed and what is finished is kept; TaskError where `home` holds anything else. The bytes do
    not depend on the number of workers.
    """
    names = tuple(CORPORA if corpora is None else corpora)
    if unknown := [name for name in names if name not in CORPORA]:
        raise TaskError("suite", f"no corpus {', '.join(unknown)}", f"give some of {', '.join(CORPORA)}")
    if size not in SIZES:
        raise TaskError("suite", f"no size {size!r}", f"give one of {', '.join(SIZES)}")
    if not 0 <= seed < 2**32 or workers < 1:
        raise TaskError("suite", f"seed {seed}, {workers} workers", "give a seed from 0 to 2**32 - 1, and workers")
    folder = Path(home)
    claim(folder, {"generator": VERSION, "seed": seed, "size": size})
    tell = tell or (lambda corpus, done, total: None)
    missing = [name for name in names if not is_whole(folder / name, size, seed)]
    for name in set(names) - set(missing):
        tell(name, len(SIZES[size][name]), len(SIZES[size][name]))
    if missing:
        with executor(workers) as pool:
            for name in missing:
                write_corpus(folder / name, name, size, seed, pool, tell)
    return folder


def executor(workers: int) -> Executor:
    """Processes; for one worker a thread, so that plain scripts need no guard around their main module."""
    spawn = multiprocessing.get_context("spawn")
    return ThreadPoolExecutor(1) if workers == 1 else ProcessPoolExecutor(workers, mp_context=spawn)


def claim(home: Path, options: dict[str, Any]) -> None:
    """Note what is written here, first of all; refuse a folder of something else."""
    note = home / CLAIM
    found = read_json(note) if note.exists() else None
    if found not in (None, options):
        raise TaskError(home, f"holds the suite of {found}, not of {options}", "choose another folder")
    if found is None and home.exists() and any(not path.name.endswith(".partial") for path in home.iterdir()):
        raise TaskError(home, "is not empty, and holds no suite", "choose another folder")
    write_json(note, options)


def is_whole(folder: Path, size: str, seed: int) -> bool:
    """Whether the corpus was finished, with this size and seed."""
    note = folder / NOTE
    if not note.exists():
        return False
    facts = read_json(note)
    return (facts.get("generator"), facts.get("size"), facts.get("seed")) == (VERSION, size, seed)


def plan_corpus(name: str, extent: Extent, seed: int = 0) -> Plan:
    """A corpus on paper.

    >>> plan_corpus("musdb18", Extent(1, 0, 0, 2.0)).counts
    {'musdb18': {'train': 1, 'valid': 0, 'test': 0}}
    """
    plan: Plan = import_module(f"mir_benchmarks.suite.{MODULES.get(name, name)}").plan(seed, extent)
    return plan


def write_corpus(folder: Path, name: str, size: str, seed: int, pool: Executor, tell: Tell) -> None:
    """Recordings first, then annotations, and the note that says that all of it is there."""
    plan = plan_corpus(name, SIZES[size][name], seed)
    total = len(plan.recordings)
    missing = [one for one in plan.recordings if not all((folder / path).exists() for path in one.paths)]
    done = total - len(missing)
    tell(name, done, total)
    batches = [missing[i : i + BATCH] for i in range(0, total, BATCH)]
    jobs = [pool.submit(write_recordings, folder, batch) for batch in batches]
    for written in results(jobs):
        done += written
        tell(name, done, total)
    for path, text in plan.texts.items():
        write_bytes(folder / path, text.encode())
    seconds = round(sum(one.seconds for one in plan.recordings), 3)
    facts = {"generator": VERSION, "seed": seed, "size": size, "counts": plan.counts, "seconds_of_audio": seconds}
    write_json(folder / NOTE, facts)


def results(jobs: list[Future[int]]) -> Iterator[int]:
    """In order; what has not begun when one fails, never will."""
    try:
        for job in jobs:
            yield job.result()
    finally:
        for job in jobs:
            job.cancel()


def write_recordings(folder: Path, recordings: list[Recording]) -> int:
    """Make the files of some recordings, and say of how many."""
    for recording in recordings:
        for path, data in recording.encode().items():
            write_bytes(folder / path, data)
    return len(recordings)


def write_bytes(path: Path, data: bytes) -> None:
    with write_whole(path) as temporary:
        temporary.write_bytes(data)
