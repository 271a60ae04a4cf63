"""Check datasets before any model runs: what is missing, empty, damaged or too much; no model is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mert.audio.find import SUFFIXES
from mert.audio.recording import MIN_RATE_HZ, Recording
from mert.errors import AudioError
from mert.files import sha256_file
from mir_benchmarks.datasets import gtzan, mtt, musdb
from mir_benchmarks.datasets.dataset import Dataset, Item, TaskError
from mir_benchmarks.datasets.splits import vocalset
from mir_benchmarks.tasks.registry import TASKS, TaskSpec

# A dataset with one of these cannot be run on; the others are for information.
SERIOUS = ("dataset", "counts", "missing", "empty", "corrupt")
KINDS = (*SERIOUS, "damaged", "duplicate", "known", "extra")
TITLES = {
    "dataset": "cannot be read", "counts": "other counts than it should have", "missing": "missing",
    "empty": "empty files", "corrupt": "cannot be decoded", "damaged": "decoded with warnings",
    "duplicate": "the same file in two splits", "known": "left out on purpose", "extra": "not of the task",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing about a corpus: `kind` is one of KINDS, `about` a path or an item, `detail` what there is to say."""

    corpus: str
    kind: str
    about: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, and the items read of each task: train, valid, test."""

    findings: tuple[Finding, ...]
    counts: dict[str, dict[str, int]]

    @property
    def ok(self) -> bool:
        """Whether every task can be run as it is meant."""
        return not any(finding.kind in SERIOUS for finding in self.findings)

    def lines(self, most: int = 10) -> list[str]:
        """A printable table: a line for each task, then at most `most` findings of each kind and corpus.

        >>> findings = (Finding("gtzan", "missing", "blues.00029"), Finding("gtzan", "missing", "blues.00030"))
        >>> report = Report(findings, {"gtzan_genre": {"train": 441, "valid": 197, "test": 290}})
        >>> print("\\n".join(report.lines(most=1)))
        gtzan_genre             441 train    197 valid    290 test
        gtzan: 2 missing
          blues.00029
          ... and 1 more
        """
        rows = [
            f"{task:20}" + "".join(f" {n:>6} {split}" for split, n in counts.items())
            for task, counts in self.counts.items()
        ]
        groups: dict[tuple[str, str], list[Finding]] = defaultdict(list)
        for finding in sorted(self.findings, key=lambda finding: KINDS.index(finding.kind)):
            groups[finding.corpus, finding.kind].append(finding)
        for (corpus, kind), found in groups.items():
            rows.append(f"{corpus}: {len(found)} {TITLES[kind]}")
            rows += [f"  {one.about}" + (f": {one.detail}" if one.detail else "") for one in found[:most]]
            rows += [f"  ... and {len(found) - most} more"] if len(found) > most else []
        return rows


def check(
    data_home: Path,
    tasks: Iterable[str],
    decode: bool = False,
    duplicates: bool = False,
    tell: Callable[[int, int], None] | None = None,
) -> Report:
    """Look at every recording of the tasks: its header or, with `decode`, all of it; `duplicates` hashes the files.

    `tell` is called with the recordings looked at and those there are, corpus by corpus.
    """
    findings: list[Finding] = []
    counts = {}
    corpora: dict[str, dict[Path, Item]] = {}
    by_task: dict[str, list[dict[Path, Item]]] = defaultdict(list)  # whose splits may differ
    for task in (TASKS[name] for name in tasks):
        dataset = _read(task, data_home, findings)
        if dataset is not None:
            counts[task.name] = dataset.counts
            by_task[task.corpus].append(_all_files(dataset))
            corpora.setdefault(task.corpus, {}).update(by_task[task.corpus][-1])
    for corpus, files in corpora.items():
        home = Path(data_home) / corpus
        for done, path in enumerate(sorted(files), start=1):
            findings += _audio_findings(corpus, path, home, decode)
            if tell:
                tell(done, len(files))
        findings += _duplicates(corpus, files, by_task[corpus], home) if duplicates else ()
        unread = [task for task in TASKS.values() if task.corpus == corpus and task.name not in counts]
        also = [dataset for task in unread if (dataset := _read(task, data_home, []))]
        findings += _others(corpus, {path for dataset in also for path in _all_files(dataset)} | set(files), home)
    return Report(tuple(dict.fromkeys(findings)), counts)


def _read(task: TaskSpec, data_home: Path, findings: list[Finding]) -> Dataset | None:
    """The task's items; what keeps them from being read or complete goes to `findings`."""
    home = Path(data_home) / task.corpus
    try:
        dataset, expected = task.read(data_home), task.expected_counts(home)
    except TaskError as error:
        findings.append(Finding(task.corpus, "dataset", error.source, f"{error.reason}; {error.remedy}"))
        return None
    if any(expected.values()) and dataset.counts != expected:
        found, wanted = ("/".join(map(str, of.values())) for of in (dataset.counts, expected))
        findings.append(Finding(task.corpus, "counts", task.name, f"{found} items, not {wanted}"))
        absent = dataset.facts.get("absent", ())
        if len(absent) == sum(expected.values()) - len(dataset.items):  # not so where a tree should have some only
            findings += [Finding(task.corpus, "missing", name) for name in absent]
    unannotated = dataset.facts.get("unannotated", ())
    findings += [Finding(task.corpus, "missing", name, "is there without annotation") for name in unannotated]
    return dataset


def _all_files(dataset: Dataset) -> dict[Path, Item]:
    """The audio files of all items: the stems, too, of songs that have them."""
    songs = (item for item in dataset.items if item.label is None)
    stems = {path: item for item in songs for path in musdb.stem_files(item).values()}
    return {item.audio: item for item in dataset.items} | stems


def _audio_findings(corpus: str, path: Path, home: Path, decode: bool) -> Iterator[Finding]:
    about = _short(path, home)
    if not path.exists():
        yield Finding(corpus, "missing", about)
        return
    if not path.stat().st_size:
        yield Finding(corpus, "empty", about)
        return
    try:
        recording = Recording(path)
        if not decode:
            recording.claimed_seconds()
            return
        for _ in recording.blocks(MIN_RATE_HZ):
            pass
    except (AudioError, OSError) as error:
        reason = f"{error.reason}; {error.remedy}" if isinstance(error, AudioError) else str(error)
        known = "; damaged in the copy on Kaggle: get another, or run with --set gtzan_jazz54=drop"
        yield Finding(corpus, "corrupt", about, reason + known * (path.stem == gtzan.CORRUPT))
        return
    if not recording.seconds:
        yield Finding(corpus, "corrupt", about, "holds no sound")
    elif recording.warnings:
        yield Finding(corpus, "damaged", about, "; ".join(recording.warnings))


def _duplicates(corpus: str, files: Iterable[Path], tasks: Iterable[dict[Path, Item]], home: Path) -> Iterator[Finding]:
    """Files that are bit for bit the same, and of items in different splits of one of the tasks."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(files):
        if path.exists():
            by_size[path.stat().st_size].append(path)
    digests = {path: sha256_file(path) for paths in by_size.values() if len(paths) > 1 for path in paths}
    for items in tasks:
        first: dict[str, Path] = {}
        for path in (path for path in digests if path in items):
            one = first.setdefault(digests[path], path)
            if items[one].split != items[path].split:
                where = f"{_short(one, home)} ({items[one].split})"
                yield Finding(corpus, "duplicate", _short(path, home), f"of {items[path].split} is {where}")


def _others(corpus: str, used: set[Path], home: Path) -> Iterator[Finding]:
    """Recordings below the corpus folder that no task of it uses, with the reason where it is known."""
    for path in sorted(home.rglob("*")):
        is_audio = path.suffix.lower() in (*SUFFIXES, ".mp4") and not path.name.startswith(".")
        if is_audio and path not in used and path.is_file():
            reason = _known(corpus, path)
            yield Finding(corpus, "known" if reason else "extra", _short(path, home), reason)


def _known(corpus: str, path: Path) -> str:
    """Why a recording that is often found in a corpus is not used."""
    near = f"{path.parent.name}/{path.name}"
    if corpus == "magnatagatune" and near in mtt.EMPTY_FILES:
        return "an empty file in every copy"
    if corpus == "vocalset" and near in vocalset()["deletions"]:
        return "a duplicate, or not of VocalSet"
    if corpus == "gtzan" and path.parent.name in gtzan.GENRES:
        return "not in the fault-filtered split"
    return ""


def _short(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)
