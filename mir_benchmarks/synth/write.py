"""Hours of synthetic or sampled music as files: audio, and a JSONL of scores. Resumable; files are whole or absent."""

import json
import math
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mert.errors import UsageError
from mir_benchmarks.synth.corpus import SynthCorpus
from mir_benchmarks.synth.files import claim, encode, write_bytes
from mir_benchmarks.synth.sampled import SampledCorpus

SHARD = 100
FORMATS = ("flac", "wav")
Music = SynthCorpus | SampledCorpus


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
    sampled: bool = False,
    options: Mapping[str, Any] = MappingProxyType({}),
    on_progress: Callable[[bool], None] = lambda rendered: None,
) -> Path:
    """Write clips of `seconds` until there are `hours`; returns `folder`/scores.jsonl, a row per clip.

    The music is that of SynthCorpus or, with `sampled`, that of SampledCorpus, whose rows hold sources and licence;
    `options` are others of the corpus. The file is a manifest to prepare a corpus from.

    A run that was cut short is resumed; one with other options in the same folder is refused, and so is a folder that
    holds anything else. `on_progress` is called per clip, with True if it was rendered and False if it was there.
    """
    if workers < 1:
        raise ValueError(f"give a positive number of workers, not {workers}")
    home = Path(folder)
    corpus = open_folder(home, hours, seed, seconds, rate_hz, purpose, suffix, sampled, options)
    shards = range(0, len(corpus), SHARD)
    for rendered in run(corpus, home, suffix, shards, workers):
        on_progress(rendered)
    write_bytes(home / "scores.jsonl", b"".join(shard_path(home, first).read_bytes() for first in shards))
    return home / "scores.jsonl"


def open_folder(
    home: Path,
    hours: float,
    seed: int,
    seconds: float,
    rate_hz: int,
    purpose: str,
    suffix: str,
    sampled: bool = False,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Music:
    """The corpus that fills `hours`, its options recorded in `home`: more hours of it may follow, nothing else may.

    ValueError for options that are out of range, UsageError for a folder that holds anything else.
    """
    if not (math.isfinite(hours) and hours > 0):
        raise ValueError(f"give a positive number of hours, not {hours}")
    if suffix not in FORMATS:
        raise ValueError(f"no format {suffix!r}: give one of {', '.join(FORMATS)}")
    n_clips = math.ceil(round(hours * 3600 / seconds, 6))  # 0.07 h are 252 clips of 1 s, not 253
    kind = SampledCorpus if sampled else SynthCorpus
    own = {"seed": seed, "seconds": seconds, "rate_hz": rate_hz, "purpose": purpose}
    known = {each.name for each in fields(kind)} - {"n_items", *own}
    if unknown := ", ".join(sorted(set(options) - known)):
        raise ValueError(f"{'sampled' if sampled else 'synthetic'} music has no option {unknown}")
    corpus: Music = kind(n_items=n_clips, **own, **options)  # type: ignore[arg-type]
    note = {**own, "suffix": suffix, **options} | ({"music": "sampled"} if sampled else {})
    if reason := claim(home / "synth.json", note, "music of this kind"):
        raise UsageError(home, reason, "choose another folder")
    return corpus


def run(corpus: Music, home: Path, suffix: str, shards: range, workers: int) -> Iterator[bool]:
    """Write the shards, in this process or in several; yields for each clip whether it was rendered."""
    if workers == 1:
        for first in shards:
            yield from shard_clips(corpus, home, suffix, first)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for rendered in pool.map(partial(write_shard, corpus, home, suffix), shards):
            yield from rendered


def shard_path(home: Path, first: int) -> Path:
    return home / "shards" / f"{first:08d}.jsonl"


def write_shard(corpus: Music, home: Path, suffix: str, first: int) -> list[bool]:
    return list(shard_clips(corpus, home, suffix, first))


def shard_clips(corpus: Music, home: Path, suffix: str, first: int) -> Iterator[bool]:
    """Write one shard, audio files first and rows last; yields for each clip whether it was rendered."""
    indices = range(first, min(first + SHARD, len(corpus)))
    rows_path = shard_path(home, first)
    if rows_path.exists() and rows_path.read_bytes().count(b"\n") == len(indices):
        yield from [False] * len(indices)
        return
    rows = []
    for index in indices:
        path = home / "audio" / f"{first:08d}" / f"{index:08d}.{suffix}"
        if missing := not path.exists():
            write_bytes(path, encode(corpus.read(index), corpus.rate_hz, suffix))
        row = {"index": index, "path": path.relative_to(home).as_posix(), **corpus.row(index)}
        rows.append(json.dumps(row) + "\n")
        yield missing
    write_bytes(rows_path, "".join(rows).encode())
