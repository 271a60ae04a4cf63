"""Clips read ahead of the model, by processes or a thread: the same samples however many there are.

Shapes: B clips of a group, N samples.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mert.collection.executors import fresh_processes, start_quietly
from mert.errors import MertError
from mert.train.augmentation import at_speed, samples_at
from mert.train.corpus.base import Corpus, CorpusError
from mert.train.draw import Cut, Draw
from mert.train.signals import STOPS

log = logging.getLogger("mert")
Key = tuple[int, int]  # step and number of a group
MAX_WORKERS = 16  # of one process that trains, where their number is `auto`
AHEAD = 2  # groups that each worker prepares
MAX_ATTEMPTS = 20  # replacements of one clip: so many recordings that cannot be read are no accident


class Read(NamedTuple):
    """Clips that were read: float32 [B, N], of which recordings, from which frames on, and what could not be read."""

    wave_BN: torch.Tensor
    recordings: tuple[int, ...]
    frames: tuple[int, ...]
    problems: tuple[str, ...]


class Clips(Dataset[Read | MertError]):
    """Reads groups of clips; its items are named by (step, number), or are an error to raise in the parent.

    A clip that cannot be read is replaced by one of another recording, drawn by step, group and row: with the same
    unreadable recordings every process, and every repetition, draws the same.
    """

    def __init__(self, corpus: Corpus, draw: Draw) -> None:
        self.corpus, self.draw = corpus, draw

    def __getitem__(self, key: Key) -> Read | MertError:
        try:
            return self.read(self.draw.cut(*key), key)
        except MertError as error:  # torch would wrap it
            return error

    def read(self, cut: Cut, key: Key = (0, 0)) -> Read:
        """The clips of a group; CorpusError if too many of its recordings cannot be read."""
        rows, problems = [], []
        places = list(zip(cut.recordings, cut.frames, strict=True))
        for row, (index, frame) in enumerate(places):
            for attempt in range(MAX_ATTEMPTS):
                try:
                    rows.append(self._clip(index, frame * self.draw.stride, cut.n_samples, cut.speeds[row]))
                    break
                except CorpusError:  # of the corpus itself, not of one recording
                    raise
                except MertError as error:
                    problems.append(str(error))
                n_samples = samples_at(cut.speeds[row], cut.n_samples)
                index, frame = self.draw.replacement(*key, row, attempt, n_samples)
                places[row] = index, frame
            else:
                remedy = "check the disk, and that the recordings are still there"
                raise CorpusError(
                    f"step {key[0]}", f"{MAX_ATTEMPTS} recordings could not be read; {problems[-1]}", remedy
                )
        recordings, frames = zip(*places, strict=True)
        return Read(torch.from_numpy(np.stack(rows)), recordings, frames, tuple(problems))

    def _clip(self, index: int, start: int, n_samples: int, speed: float) -> np.ndarray:
        wave_N = self.corpus.read(index, start, samples_at(speed, n_samples))
        return wave_N if speed == 1 else at_speed(wave_N, speed, n_samples)


class _Keys:
    """The groups of one process in order, from a first one on: what torch calls a sampler."""

    def __init__(self, first: Key, share: range, n_steps: int) -> None:
        self.first, self.share, self.n_steps = first, share, n_steps

    def __iter__(self) -> Iterator[Key]:
        for step in range(self.first[0], self.n_steps + 1):
            for number in self.share:
                if (step, number) >= self.first:
                    yield step, number


class Loader:
    """Reads the groups of `share`, step after step, ahead of `next`: by `workers` processes, or by a thread if 0.

    "auto" are as many as there are cores to spare, at most 16. `waited_s` are the seconds in which `next` waited.
    """

    def __init__(self, clips: Clips, share: range, n_steps: int, workers: int | str, device: torch.device) -> None:
        self.clips, self.share, self.n_steps, self.device = clips, share, n_steps, device
        self.n_workers = spare_cores() if workers == "auto" else int(workers)
        self.waited_s = 0.0
        self._reported: set[str] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
        self._ahead: dict[Key, Future[Read]] = {}
        self._coming: Iterator[Any] | None = None
        self._expected: Key | None = None

    def read(self, cut: Cut, key: Key = (0, 0)) -> Read:
        """Clips read here and now."""
        return self._noted(self.clips.read(cut, key))

    def next(self, step: int, number: int) -> Read:
        """The clips of a group, mostly read already; groups are to be asked for in order."""
        started = time.perf_counter()
        read = self._of_processes((step, number)) if self.n_workers else self._of_thread((step, number))
        self.waited_s += time.perf_counter() - started
        return self._noted(read)

    def close(self) -> None:
        """End the processes."""
        self._coming, self._ahead = None, {}

    def _of_thread(self, key: Key) -> Read:
        ahead = self._ahead.pop(key, None)
        read = self.clips.read(self.clips.draw.cut(*key), key) if ahead is None else ahead.result()
        following = self._after(key)
        if following[0] <= self.n_steps:
            cut = self.clips.draw.cut(*following)
            self._ahead = {following: self._thread.submit(self.clips.read, cut, following)}
        return read

    def _of_processes(self, key: Key) -> Read:
        if self._coming is None or key != self._expected:
            self._coming = iter(self._processes(key))
        try:
            read = next(self._coming)
        except (RuntimeError, OSError, EOFError) as error:
            self._coming = None
            raise death_of_worker(error) from error
        self._expected = self._after(key)
        if isinstance(read, MertError):
            raise read
        return Read(*read)

    def _processes(self, first: Key) -> DataLoader[Read | MertError]:
        keys = _Keys(first, self.share, self.n_steps)
        settings: Any = {"collate_fn": _as_it_is, "worker_init_fn": _start}
        return DataLoader(
            self.clips, batch_size=None, sampler=keys, num_workers=self.n_workers, prefetch_factor=AHEAD,
            pin_memory=self.device.type == "cuda", multiprocessing_context=fresh_processes(), **settings,
        )  # fmt: skip

    def _after(self, key: Key) -> Key:
        step, number = key
        return (step, number + 1) if number + 1 in self.share else (step + 1, self.share[0])

    def _noted(self, read: Read) -> Read:
        for problem in read.problems:
            if problem not in self._reported:
                self._reported.add(problem)
                log.warning("dropped a clip: %s", problem)
        return read


def spare_cores() -> int:
    """Workers that the cores of this machine allow, beside the processes that train; 0 with few: a thread reads then.

    The processes of torchrun share the cores of their machine.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return min(MAX_WORKERS, each - 2) if each >= 4 else 0


def death_of_worker(error: Exception) -> Exception:
    """Why a process that reads ended, in one line; the error itself if that is not what happened."""
    text = str(error)
    if "shared memory" in text or "Bus error" in text:
        remedy = "enlarge it (docker run --shm-size 8g), or lower loader_workers"
        return CorpusError("/dev/shm", "is too small for the clips that are read ahead", remedy)
    is_cut_off = isinstance(error, OSError | EOFError)  # while it passed clips on
    if is_cut_off or "exited unexpectedly" in text or "is killed by signal" in text:
        remedy = "lower loader_workers; the same command resumes"
        return CorpusError("a process that reads clips", "died (killed, or out of memory)", remedy)
    return error


def _start(worker: int) -> None:
    """Begin a process that reads: signals are for the one that trains, which ends this one."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)
    start_quietly(1)


def _as_it_is(read: Read | MertError) -> Read | MertError:
    return read
