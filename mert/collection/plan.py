"""Which files a corpus job reads, and which output each of them gets."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mert.audio.find import audio_under, listed
from mert.errors import UsageError

MAX_NAME_BYTES = 255  # of a file, on all common disks


@dataclass(frozen=True)
class Job:
    """One recording and where its features go."""

    source: str
    output: str


@dataclass(frozen=True)
class Plan:
    """All jobs of a command in a fixed order, and counts of the other files in its folders, by suffix."""

    jobs: tuple[Job, ...]
    passed_over: Counter[str]


def plan(inputs: Iterable[Path], out: Path | None, listing: Path | None = None, suffix: str = ".npz") -> Plan:
    """Jobs for files, folders and a list of paths (one per line); the output tree mirrors the input's.

    In folders only files with an audio suffix are taken; a file that is named is always tried. Outputs are the relative
    paths with `suffix` added, shortened where that is too long for a disk, and empty without `out`. Raises UsageError
    where nothing is found or two inputs share an output.
    """
    passed_over: Counter[str] = Counter()
    inputs = list(inputs)
    if not inputs and listing is None:
        raise UsageError("inputs", "no recordings are named", "give files, folders, or --list FILE")
    if inputs and not listing and all(map(_is_missing, inputs)):
        raise UsageError(", ".join(map(str, inputs)), "is not there", "check the path")
    named: list[tuple[Path, Path]] = []
    for path in inputs:
        if os.path.isdir(path):
            named += [(file, file.relative_to(path)) for file in audio_under(path, passed_over)]
        else:
            named.append((path, Path(path.name)))
    if listing is not None:
        named += _listed(listing)
    if out is None and named:
        return Plan(tuple(Job(str(source), "") for source in dict(named)), passed_over)
    out = out or Path()
    outputs: dict[Path, Path] = {}
    for source, relative in named:
        output = out / relative.with_name(output_name(relative.name, suffix))
        if output in outputs and outputs[output] != source:
            reason = f"two inputs for one output: {outputs[output]} and {source}"
            raise UsageError(output, reason, "give one a new name")
        outputs[output] = source
    if not outputs:
        counted = listed(passed_over) or "nothing there"
        raise UsageError(
            ", ".join(map(str, inputs)) or str(listing),
            f"no audio files among the inputs ({counted})",
            "name files to try them",
        )
    return Plan(tuple(Job(str(source), str(output)) for output, source in outputs.items()), passed_over)


def _is_missing(path: Path) -> bool:
    try:
        os.lstat(path)
    except OSError as error:  # others come when it is tried
        return isinstance(error, FileNotFoundError)
    return False


def output_name(name: str, suffix: str = ".npz") -> str:
    """The name of the output of a recording; of a very long one the beginning, and a hash that tells it from others.

    >>> output_name("song.wav")
    'song.wav.npz'
    """
    encoded = os.fsencode(name)
    if not len(encoded) <= MAX_NAME_BYTES < len(encoded) + len(suffix):  # a longer one is on no disk
        return name + suffix
    end = f"~{hashlib.sha256(encoded).hexdigest()[:12]}{suffix}"
    return encoded[: MAX_NAME_BYTES - len(end)].decode(errors="ignore") + end


def shard_of(jobs: tuple[Job, ...], shard: str) -> tuple[Job, ...]:
    """Shard "i/n" of the jobs, i from 1 to n: every n-th job, so that shards have similar sizes.

    >>> jobs = tuple(Job(name, name) for name in "abcde")
    >>> [job.source for job in shard_of(jobs, "2/2")]
    ['b', 'd']
    """
    i, _, n = shard.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise UsageError(f"--shard {shard}", "not a shard", "give i/n with i from 1 to n, such as 1/8")
    return jobs[int(i) - 1 :: int(n)]


def _listed(listing: Path) -> list[tuple[Path, Path]]:
    """Paths of a list file; outputs mirror them below their common folder."""
    try:
        lines = listing.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise UsageError(listing, str(error.strerror).lower(), "give a text file with one path per line") from None
    paths = [Path(line) for line in lines if line.strip()]
    if not paths:
        raise UsageError(listing, "the list is empty", "write one path per line")
    root = os.path.commonpath([os.path.abspath(path.parent) for path in paths])
    return [(path, Path(os.path.relpath(os.path.abspath(path), root))) for path in paths]
