"""Write the synthetic suite corpus by corpus, in several processes; resumable, a finished corpus is marked."""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from itertools import repeat
from pathlib import Path

from mert.files import read_json, write_json
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.suite.plans import CORPORA, CorpusPlan, RecordingPlan
from mir_benchmarks.suite.sizes import SIZES, Extent, is_sampled
from mir_benchmarks.suite.studio import SAMPLED, SYNTHETIC
from mir_benchmarks.synth.banks import BANKS, require
from mir_benchmarks.synth.files import claim, write_bytes

VERSION = "1"
MODULES = {"mtg-jamendo": "jamendo", "musdb18": "musdb"}
NOTE = "SYNTHETIC.json"  # written last: a corpus with it is whole
CLAIM = "suite.json"
BATCH = 8  # recordings for a worker at a time

OnProgress = Callable[[str, int, int], None]  # corpus, recordings written, recordings in all


def write_suite(
    home: str | Path,
    size: str = "tiny",
    seed: int = 0,
    workers: int = 1,
    corpora: Iterable[str] | None = None,
    on_progress: OnProgress = lambda corpus, done, total: None,
) -> Path:
    """Write the `corpora` (all eight) below `home`, which is returned: the `data_home` of the benchmark.

    An interrupted run is resumed; TaskError where `home` holds anything else. The bytes do
    not depend on the number of workers. MertError for size "sampled" where fluidsynth or a sound font is missing.
    """
    names = tuple(CORPORA if corpora is None else corpora)
    if unknown := [name for name in names if name not in CORPORA]:
        raise TaskError("suite", f"no corpus {', '.join(unknown)}", f"give some of {', '.join(CORPORA)}")
    if size not in SIZES:
        raise TaskError("suite", f"no size {size!r}", f"give one of {', '.join(SIZES)}")
    if not 0 <= seed < 2**32 or workers < 1:
        raise TaskError("suite", f"seed {seed}, {workers} workers", "give a seed from 0 to 2**32 - 1, and workers")
    if is_sampled(size) and set(names) - {"vocalset"}:
        require(*BANKS)
    folder = Path(home)
    if reason := claim(folder / CLAIM, {"generator": VERSION, "seed": seed, "size": size}, "suite"):
        raise TaskError(folder, reason, "choose another folder")
    missing = [name for name in names if not is_whole(folder / name, size, seed)]
    for name in set(names) - set(missing):
        on_progress(name, len(SIZES[size][name]), len(SIZES[size][name]))
    spawn = multiprocessing.get_context("spawn")
    # For one worker a thread, so that scripts need no `__main__` guard.
    with ThreadPoolExecutor(1) if workers == 1 else ProcessPoolExecutor(workers, mp_context=spawn) as pool:
        for name in missing:
            write_corpus(folder / name, name, size, seed, pool, on_progress)
    return folder


def is_whole(folder: Path, size: str, seed: int) -> bool:
    """Whether the corpus is finished, with this size and seed."""
    note = folder / NOTE
    if not note.exists():
        return False
    facts = read_json(note)
    return (facts.get("generator"), facts.get("size"), facts.get("seed")) == (VERSION, size, seed)


def plan_corpus(name: str, extent: Extent, seed: int = 0, sampled: bool = False) -> CorpusPlan:
    """The plan of a corpus, of synthetic or of sampled sound.

    >>> plan_corpus("musdb18", Extent(1, 0, 0, 2.0)).counts
    {'musdb18': {'train': 1, 'valid': 0, 'test': 0}}
    """
    plan: CorpusPlan = import_module(f"mir_benchmarks.suite.{MODULES.get(name, name)}").plan(
        seed, extent, SAMPLED if sampled else SYNTHETIC
    )
    return plan


def write_corpus(folder: Path, name: str, size: str, seed: int, pool: Executor, on_progress: OnProgress) -> None:
    """Write the recordings, then the annotations, then the note that marks the corpus as whole."""
    plan = plan_corpus(name, SIZES[size][name], seed, is_sampled(size))
    total = len(plan.recordings)
    missing = [planned for planned in plan.recordings if not all((folder / path).exists() for path in planned.paths)]
    done = total - len(missing)
    on_progress(name, done, total)
    batches = [missing[i : i + BATCH] for i in range(0, total, BATCH)]
    for written in pool.map(write_recordings, repeat(folder), batches):  # when one fails, the others do not begin
        done += written
        on_progress(name, done, total)
    for path, text in plan.texts.items():
        write_bytes(folder / path, text.encode())
    seconds = round(sum(recording.seconds for recording in plan.recordings), 3)
    facts = {"generator": VERSION, "seed": seed, "size": size, "counts": plan.counts, "seconds_of_audio": seconds}
    write_json(folder / NOTE, facts)


def write_recordings(folder: Path, recordings: list[RecordingPlan]) -> int:
    """Write the files of some recordings; returns how many there were."""
    for recording in recordings:
        for path, data in recording.encode().items():
            write_bytes(folder / path, data)
    return len(recordings)
