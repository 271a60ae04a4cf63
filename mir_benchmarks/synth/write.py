"""Hours of synthetic music as files: audio, and a JSONL of what was composed. Resumable; files are whole or absent."""

from __future__ import annotations

import io
import json
import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile

from mert.files import read_json, write_json, write_whole
from mir_benchmarks.synth.corpus import SynthCorpus

SHARD = 100
FORMATS = {"flac": "PCM_16", "wav": "PCM_16"}


def write_hours(
    hours: float,
    folder: str | Path,
    seed: int = 0,
    workers: int = 1,
    *,
    seconds: float = 10.0,
    rate_hz: int = 24_000,
    purpose: str = "train",
    suffix: str = "flac",
    tell: Callable[[bool], None] | None = None,
) -> Path:
    """Write clips of `seconds` until there are `hours`; returns `folder`/scores.jsonl, a row per clip.

    A run that was cut short is resumed; one with other options in the same folder is refused, and so is a folder that
    holds anything else. `tell` is called for each clip that is there, with True if it had to be rendered.
    """
    if not (math.isfinite(hours) and hours > 0 and workers >= 1):
        raise ValueError(f"give a positive number of hours and workers, not {hours} and {workers}")
    if suffix not in FORMATS:
        raise ValueError(f"no format {suffix!r}: give one of {', '.join(FORMATS)}")
    corpus = SynthCorpus(seed, n_clips(hours, seconds), seconds, rate_hz, purpose)
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    claim(home, corpus, suffix)
    shards = range(0, len(corpus), SHARD)
    for rendered in run(corpus, home, suffix, shards, workers):
        if tell:
            tell(rendered)
    rows = b"".join(shard_path(home, first).read_bytes() for first in shards)
    write_bytes(home / "scores.jsonl", rows)
    return home / "scores.jsonl"


def n_clips(hours: float, seconds: float) -> int:
    """Clips of `seconds` that fill `hours`.

    >>> n_clips(0.001, 1.0)
    4
    """
    return math.ceil(round(hours * 3600 / seconds, 6))


def claim(home: Path, corpus: SynthCorpus, suffix: str) -> None:
    """Note what is written here; more hours of the same may follow, something else may not."""
    options = {"seed": corpus.seed, "seconds": corpus.seconds, "rate_hz": corpus.rate_hz, "purpose": corpus.purpose,
               "suffix": suffix}  # fmt: skip
    note = home / "synth.json"
    found = read_json(note) if note.exists() else None
    if found not in (None, options):
        raise ValueError(f"{home} holds music made with {found}: choose another folder for {options}")
    if found is None and any(not path.name.endswith(".partial") for path in home.iterdir()):
        raise ValueError(f"{home} is not empty, and holds no music of this kind: choose another folder")
    write_json(note, options)


def run(corpus: SynthCorpus, home: Path, suffix: str, shards: range, workers: int) -> Iterator[bool]:
    """Shards one by one, in this process or in several; for each clip, whether it had to be rendered."""
    if workers == 1:
        for first in shards:
            yield from shard_clips(corpus, home, suffix, first)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(write_shard, corpus, home, suffix, first) for first in shards]
        for job in jobs:
            yield from job.result()


def shard_path(home: Path, first: int) -> Path:
    return home / "shards" / f"{first:08d}.jsonl"


def write_shard(corpus: SynthCorpus, home: Path, suffix: str, first: int) -> list[bool]:
    return list(shard_clips(corpus, home, suffix, first))


def shard_clips(corpus: SynthCorpus, home: Path, suffix: str, first: int) -> Iterator[bool]:
    """One shard: its audio files, then its rows, which say that it is done. Gives True for each clip rendered."""
    indices = range(first, min(first + SHARD, len(corpus)))
    rows_path = shard_path(home, first)
    if rows_path.exists() and rows_path.read_bytes().count(b"\n") == len(indices):
        yield from [False] * len(indices)
        return
    audio = home / "audio" / f"{first:08d}"
    rows = []
    for index in indices:
        path = audio / f"{index:08d}.{suffix}"
        missing = not path.exists()
        if missing:
            write_bytes(path, encode(corpus.read(index), corpus.rate_hz, suffix))
        row = {"index": index, "path": path.relative_to(home).as_posix(), **corpus.score(index).as_dict()}
        rows.append(json.dumps(row) + "\n")
        yield missing
    write_bytes(rows_path, "".join(rows).encode())


def write_bytes(path: Path, data: bytes) -> None:
    with write_whole(path) as temporary:
        temporary.write_bytes(data)


def encode(wave_N: np.ndarray, rate_hz: int, suffix: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wave_N, rate_hz, format=suffix.upper(), subtype=FORMATS[suffix])
    return buffer.getvalue()
