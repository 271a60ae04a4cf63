"""Check datasets without a model: recordings that are missing, empty, damaged, duplicate or unexpected."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mert.audio.find import SUFFIXES
from mert.audio.recording import MIN_RATE_HZ, Recording
from mert.errors import AudioError
from mert.files import sha256_file
from mir_benchmarks.datasets import gtzan, mtt, musdb
from mir_benchmarks.datasets.dataset import VERY_SHORT_S, Dataset, Item, TaskError
from mir_benchmarks.datasets.splits import gtzan_splits, vocalset
from mir_benchmarks.tasks.registry import TASKS, TaskSpec

# Findings of these kinds keep a task from running; the others are for information.
SERIOUS = ("dataset", "counts", "missing", "empty", "corrupt")
KINDS = {
    "dataset": "cannot be read", "counts": "unexpected counts", "missing": "missing",
    "empty": "empty files", "corrupt": "cannot be decoded", "damaged": "decoded with warnings, or very short",
    "duplicate": "the same file in two splits", "known": "left out on purpose", "extra": "not part of the task",
}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A finding in a corpus: `kind` is one of KINDS, `about` a path or an item, `detail` the explanation."""

    corpus: str
    kind: str
    about: str
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, and the number of items per task and split."""

    findings: tuple[Finding, ...]
    counts: dict[str, dict[str, int]]

    @property
    def ok(self) -> bool:
        """Whether every task can be run."""
        return not any(finding.kind in SERIOUS for finding in self.findings)

    def lines(self, max_findings: int = 10) -> list[str]:
        """A printable table: a line per task, then at most `max_findings` of each kind and corpus.

        >>> findings = (Finding("gtzan", "missing", "blues.00029"), Finding("gtzan", "missing", "blues.00030"))
        >>> report = Report(findings, {"gtzan_genre": {"train": 441, "valid": 197, "test": 290}})
        >>> print("\\n".join(report.lines(max_findings=1)))
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
        for finding in sorted(self.findings, key=lambda finding: list(KINDS).index(finding.kind)):
            groups[finding.corpus, finding.kind].append(finding)
        for (corpus, kind), group in groups.items():
            rows.append(f"{corpus}: {len(group)} {KINDS[kind]}")
            rows += ["  " + ": ".join(filter(None, (one.about, one.detail))) for one in group[:max_findings]]
            rows += [f"  ... and {len(group) - max_findings} more"] if len(group) > max_findings else []
        return rows


def check(
    data_home: Path,
    tasks: Iterable[str],
    decode: bool = False,
    duplicates: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Check every recording of the tasks: its header or, with `decode`, all of it; `duplicates` hashes the files.

    `on_progress` is called per recording with the number checked and the total of its corpus.
    """
    findings: list[Finding] = []
    counts = {}
    corpora: dict[str, list[dict[Path, Item]]] = defaultdict(list)  # by task, because their splits may differ
    for task in (TASKS[name] for name in tasks):
        if dataset := _read(task, data_home, findings):
            counts[task.name] = dataset.counts
            corpora[task.corpus].append(_all_files(dataset))
    for corpus, by_task in corpora.items():
        home, files = data_home / corpus, set().union(*by_task)
        for done, path in enumerate(sorted(files), start=1):
            if fault := _fault(path, decode):
                kind, detail = fault
                findings.append(Finding(corpus, kind, _short(path, home), detail))
            on_progress(done, len(files))
        findings += _duplicates(corpus, files, by_task, home) if duplicates else ()
        unread = [task for task in TASKS.values() if task.corpus == corpus and task.name not in counts]
        also = [_all_files(dataset) for task in unread if (dataset := _read(task, data_home, []))]
        findings += _others(corpus, files.union(*also), home)
    return Report(tuple(dict.fromkeys(findings)), counts)


def _read(task: TaskSpec, data_home: Path, findings: list[Finding]) -> Dataset | None:
    """The task's dataset; problems with reading it or with its counts are added to `findings`."""
    home = data_home / task.corpus
    try:
        dataset, expected = task.read(data_home), task.expected_counts(home)
    except TaskError as error:
        findings.append(Finding(task.corpus, "dataset", error.source, f"{error.reason}; {error.remedy}"))
        return None
    if any(expected.values()) and dataset.counts != expected:
        items, wanted = ("/".join(map(str, counts.values())) for counts in (dataset.counts, expected))
        findings.append(Finding(task.corpus, "counts", task.name, f"{items} items, not {wanted}"))
        absent = dataset.facts.get("absent", ())
        if len(absent) == sum(expected.values()) - len(dataset.items):  # a generated tree has only some of the items
            findings += [Finding(task.corpus, "missing", name) for name in absent]
    unannotated = dataset.facts.get("unannotated", ())
    findings += [Finding(task.corpus, "missing", name, "is there without annotation") for name in unannotated]
    return dataset


def _all_files(dataset: Dataset) -> dict[Path, Item]:
    """The audio files of all items, with all stems of songs."""
    songs = (item for item in dataset.items if item.label is None)
    stems = {path: item for item in songs for path in musdb.stem_files(item).values()}
    return {item.audio: item for item in dataset.items} | stems


def _fault(path: Path, decode: bool) -> tuple[str, str] | None:
    """Kind and detail of what is wrong with a recording."""
    if not path.exists():
        return "missing", ""
    if not path.stat().st_size:
        return "empty", ""
    try:
        recording = Recording(path)
        if not decode:
            recording.claimed_seconds()
            return None
        for _ in recording.blocks(MIN_RATE_HZ):
            pass
    except (AudioError, OSError) as error:
        reason = f"{error.reason}; {error.remedy}" if isinstance(error, AudioError) else str(error)
        return "corrupt", reason + gtzan.KAGGLE * (path.stem == gtzan.CORRUPT)
    if not recording.seconds:
        return "corrupt", "holds no sound"
    short = [f"only {recording.seconds:.3g} s long"] * (recording.seconds < VERY_SHORT_S)
    warnings = "; ".join([*recording.warnings, *short])
    return ("damaged", warnings) if warnings else None


def _duplicates(corpus: str, files: Iterable[Path], tasks: Iterable[dict[Path, Item]], home: Path) -> Iterator[Finding]:
    """Identical files whose items are in different splits of a task."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in sorted(files):
        if path.exists():
            by_size[path.stat().st_size].append(path)
    digests = {path: sha256_file(path) for paths in by_size.values() if len(paths) > 1 for path in paths}
    for items in tasks:
        first: dict[str, Path] = {}
        for path in (path for path in digests if path in items):
            other = first.setdefault(digests[path], path)
            if items[other].split != items[path].split:
                where = f"{_short(other, home)} ({items[other].split})"
                yield Finding(corpus, "duplicate", _short(path, home), f"of {items[path].split} is {where}")


def _others(corpus: str, used: set[Path], home: Path) -> Iterator[Finding]:
    """Recordings in the corpus folder that none of its tasks uses, with the reason if it is known."""
    for path in sorted(home.rglob("*")):
        is_audio = path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        if is_audio and path not in used and path.is_file():
            reason = _known(corpus, path)
            yield Finding(corpus, "known" if reason else "extra", _short(path, home), reason)


def _known(corpus: str, path: Path) -> str:
    """Why a recording that is part of many copies of a corpus is not used; "" if it is unknown."""
    near = f"{path.parent.name}/{path.name}"
    if corpus == "magnatagatune" and near in mtt.EMPTY_FILES:
        return "an empty file in every copy"
    if corpus == "vocalset" and near in vocalset()["deletions"]:
        return "a duplicate, or not of VocalSet"
    if corpus == "gtzan" and path.parent.name in gtzan.GENRES and path.stem not in gtzan_splits():
        return "not in the fault-filtered split"
    return ""


def _short(path: Path, home: Path) -> str:
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else str(path)
