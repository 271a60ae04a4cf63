"""Run one encoder on one task: extract features once, select on validation, test once, and write the result."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import AudioError, UsageError
from mir_benchmarks.conditions import DAMAGED, LEAK, protocol_of
from mir_benchmarks.datasets import gtzan
from mir_benchmarks.datasets.dataset import SPLITS, VERY_SHORT_S, Dataset, Item, TaskError, synthetic_facts
from mir_benchmarks.statistics import group_notes, left_out, summarise
from mir_benchmarks.tasks.beats import BeatTask
from mir_benchmarks.tasks.clips import ClipTask
from mir_benchmarks.tasks.kind import Options, TaskProbe
from mir_benchmarks.tasks.protocols import deviations, follow
from mir_benchmarks.tasks.registry import TaskSpec
from mir_benchmarks.tasks.separation import SeparationTask
from probes.encoders import Encoder
from probes.features.matrix import Entry, FeatureMatrix
from probes.features.scaling import SCALINGS
from probes.results import Result, library_versions
from probes.sweep import Grid, GridRow, Journal, evaluate

DATA = ("audio", "labels")  # checksums of a task
KINDS: dict[str, type[TaskProbe]] = {
    "classification": ClipTask, "key": ClipTask, "multilabel": ClipTask, "regression": ClipTask,
    "beats": BeatTask, "separation": SeparationTask,
}  # fmt: skip


def run_task(
    task: TaskSpec,
    encoder: Encoder,
    *,
    home: str | Path,
    out: str | Path,
    features: str | Path | None = None,
    options: Options | None = None,
    on_clip: Callable[[bool, int], None] = lambda extracted, total: None,
    on_fit: Callable[[GridRow, int], None] = lambda row, total: None,
    on_message: Callable[[str], None] = lambda line: None,
    command: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Run a task, write `out`/<task>.json with its outputs as .npz beside it, and return the path of the JSON.

    `home` holds a folder per corpus; features are kept in `features` (default: `out`/features). `on_clip` is called
    per clip with whether it had to be extracted, `on_fit` per point of the grid, both with the total; `on_message`
    with lines for people; the result records `command`. UsageError for layers that the encoder does not have, and
    unless `overwrite` where `out` holds the task's result of another model, protocol, head, grid or other data;
    TaskError if data is missing, has unexpected counts, or cannot be decoded.
    """
    started = time.perf_counter()
    options, out, corpus = follow(options or Options(), encoder.facts), Path(out), Path(home) / task.corpus
    protocol = task.protocol(options.protocol)
    scalings = SCALINGS if protocol["features"] == "auto" else (protocol["features"],)
    grid = options.grid(encoder.facts.layer_names, scalings)  # before hours of extraction
    recorded = {"protocol": options.rules, **protocol}
    matrix = FeatureMatrix(Path(features or out / "features") / task.corpus, encoder, task.windows_under(protocol))
    limit = limits(task, options, synthetic_facts(corpus) is not None)
    if not overwrite:
        epochs = options.epochs(int(protocol.get("musdb_epochs", task.max_epochs)))
        head = {"linear": options.hidden == 0, "max_epochs": epochs}
        refuse_other(out / f"{task.name}.json", model_of(encoder), recorded, limit, grid, head)
    dataset = task.read(Path(home), protocol)
    expected = task.expected_counts(corpus, protocol)
    check_counts(task, dataset, {} if options.limit else expected, corpus)
    dataset = limited(dataset, options.limit)
    probe = KINDS[task.kind](task, dataset, matrix, options, protocol, on_message)
    clips = probe.clips()
    on_message(f"{len(clips)} recordings: features by {encoder.facts.name} that {matrix.folder} lacks are extracted")
    with hinted(task):
        matrix.extract(clips, lambda extracted: on_clip(extracted, len(clips)))
    probe.prepare()
    waves = {name: entry.wave for name, entry in matrix.entries.items()} | probe.waves
    contents = {name: entry.content for name, entry in matrix.entries.items()} | probe.contents
    described = task_of(task, dataset, waves, contents, corpus)
    if not overwrite:
        refuse_other_data(out / f"{task.name}.json", described)
    on_message(f"{len(grid)} heads to fit")
    journal = Journal(out / "journals" / f"{task.name}.jsonl", probe.fingerprint() | {"scalings": scalings})
    done = evaluate(probe, grid, journal, on_fit)
    outputs = probe.result_outputs(done.outputs_SnC.astype(np.float32))
    metrics, score = summarise(outputs, task.metrics, protocol)
    unchecked = ["the sizes of the splits could not be checked: none are on record"] * (not any(expected.values()))
    notes = [*dataset.notes, *unchecked, *duplicates(dataset, waves), *damaged(dataset, matrix.entries),
             *probe.notes(done.outputs_SnC), *left_out(outputs, task.metrics), *group_notes(outputs),
             *deviations(task, options)]  # fmt: skip
    result = Result(
        model=model_of(encoder), task=described, protocol=recorded, head=probe.head, metrics=metrics, score=score,
        **done.selection(), notes=notes, limit=limit,
        seconds=round(time.perf_counter() - started, 2), device=options.device,
        command=list(command), versions=library_versions(), date=now(),
    )  # fmt: skip
    return result.save(out, outputs)


def refuse_other(
    path: Path, model: dict[str, Any], protocol: dict[str, str], limit: str | None, grid: Grid, head: dict[str, Any]
) -> None:
    """UsageError where `path` is a result that was made otherwise, and would be lost."""
    if not path.exists():
        return
    there = Result.load(path)
    fits = {(row["layer"], row["lr"], row["seed"]) for row in there.grid}
    same = {
        "model": there.model == model, "protocol": protocol_of(there) == protocol, "limit": there.limit == limit,
        "head": {"linear": there.head["kind"] == "linear", "max_epochs": there.head.get("max_epochs")} == head,
        "grid": fits == {(at.layer, at.lr, at.seed) for at in grid.settings()},
    }  # fmt: skip
    _refuse_unless(same, there, path)


def refuse_other_data(path: Path, task: dict[str, Any]) -> None:
    """As `refuse_other`, once the data have been read, where `path` is a result of other recordings or labels."""
    if path.exists():
        there = Result.load(path)
        _refuse_unless({name: there.task[name] == task[name] for name in DATA if name in there.task}, there, path)


def _refuse_unless(same: Mapping[str, bool], there: Result, path: Path) -> None:
    if different := [name for name, equal in same.items() if not equal]:
        reason = f"is the result of {there.model['name']}, made with another {' and '.join(different)}"
        raise UsageError(path, reason, "give another -o, or --overwrite to replace it")


def check_counts(task: TaskSpec, dataset: Dataset, expected: dict[str, int], home: Path) -> None:
    """TaskError where a split is empty or has an unexpected number of items."""
    if any(expected.values()) and dataset.counts != expected:
        raise TaskError(
            home, f"{task.name} has {dataset.counts}, not {expected}",
            f"`mert bench prepare {task.name} --data-home {home.parent} --check` lists what is missing; --limit runs "
            "on what there is",
        )  # fmt: skip
    if task.n_artists and expected and not any(expected.values()):
        artists = {item.artist or item.label for item in dataset.items}
        if len(artists) != task.n_artists:
            reason = f"has {len(artists)} artists, not {task.n_artists}"
            raise TaskError(home, reason, f"complete the dataset: {task.get}")
    if empty := [split for split, n in dataset.counts.items() if not n]:
        raise TaskError(home, f"{task.name} has no items in {', '.join(empty)}", "complete the dataset")


def limits(task: TaskSpec, options: Options, synthetic: bool) -> str | None:
    """Why a result is not comparable with a full run, or None; a suite may have fewer epochs."""
    reasons = [f"{options.limit} items of each split"] if options.limit else []
    if not synthetic and options.epochs(task.max_epochs) < task.max_epochs:
        reasons.append(f"at most {options.max_epochs} epochs")
    return ", ".join(reasons) or None


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """The dataset sorted by ids, with at most `limit` items of each split, spread evenly over it.

    Sorted, because no number may depend on the order in which files are listed.
    """
    kept = sorted(dataset.items, key=lambda item: item.id)
    if limit is None:
        return replace(dataset, items=tuple(kept))
    splits = [[item for item in kept if item.split == split] for split in SPLITS]
    chosen = (np.linspace(0, len(items) - 1, min(limit, len(items))).round().astype(int) for items in splits)
    kept = [items[i] for items, places in zip(splits, chosen, strict=True) for i in np.unique(places)]
    facts, ids = dict(dataset.facts), {item.id for item in kept}
    if "songs" in facts:
        facts["songs"] = {clip: song for clip, song in facts["songs"].items() if clip in ids}
    return replace(dataset, items=tuple(kept), facts=facts)


def duplicates(dataset: Dataset, waves: Mapping[str, str]) -> list[str]:
    """A note on recordings that are bit for bit the same, once decoded, in different splits."""
    by_wave: dict[str, Item] = {}
    pairs = []
    for item in dataset.items:
        first = by_wave.setdefault(waves[item.id], item) if item.id in waves else item
        if first.split != item.split:
            pairs.append(f"{first.id} ({first.split}) = {item.id} ({item.split})")
    return [f"{LEAK}{len(pairs)} recordings occur in two splits: {'; '.join(pairs[:5])}"] if pairs else []


def damaged(dataset: Dataset, entries: Mapping[str, Entry]) -> list[str]:
    """Notes on recordings that were read with warnings, that are very short, or of which neither is known."""
    held = [(item, entries[item.id]) for item in dataset.items if item.id in entries]
    faults = [f"{item.id} ({item.split}): {entry.warnings[:200]}" for item, entry in held if entry.warnings]
    short = [f"{item.id} ({item.split}): {entry.seconds:.3g} s" for item, entry in held if entry.seconds < VERY_SHORT_S]
    unknown = sum(entry.warnings is None for _, entry in held)
    notes = (
        [f"{DAMAGED}{len(faults)} of {len(held)} recordings were read with warnings: {some(faults)}"] if faults else []
    )
    notes += [f"{len(short)} recordings are shorter than {VERY_SHORT_S:g} s: {some(short)}"] if short else []
    old = "recordings were embedded by a version that did not record damage: `mert bench prepare --check --decode`"
    return notes + ([f"{unknown} {old} reads them"] if unknown else [])


def some(words: Sequence[str], n_shown: int = 5) -> str:
    """The first of many words."""
    return "; ".join(words[:n_shown]) + f"; and {len(words) - n_shown} more" * (len(words) > n_shown)


@contextmanager
def hinted(task: TaskSpec) -> Iterator[None]:
    """Add what is known of a corpus to the error of a recording that cannot be read."""
    try:
        yield
    except AudioError as error:
        hint = gtzan.KAGGLE if task.corpus == "gtzan" and Path(error.source).stem == gtzan.CORRUPT else ""
        raise AudioError(error.source, error.reason, error.remedy + hint) from error


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def model_of(encoder: Encoder) -> dict[str, Any]:
    """Identity and settings of the encoder."""
    facts = encoder.facts.as_dict()
    return {"name": facts.pop("name"), "revision": facts.pop("revision"), "sha256": facts.pop("sha256")} | facts


def task_of(
    task: TaskSpec, dataset: Dataset, waves: Mapping[str, str], contents: Mapping[str, str], home: Path
) -> dict[str, Any]:
    """Identity of the data: real or synthetic, checksums over audio and labels, sizes of the splits.

    `checksum` is over the waves at the encoder's rate, `audio` over the files (of songs: over stems at 24 kHz).
    """
    sha, labels, audio = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for item in sorted(dataset.items, key=lambda item: item.id):
        sha.update(json.dumps([item.id, item.split, item.label, waves.get(item.id, "")]).encode())
        labels.update(json.dumps([item.id, item.split, item.label]).encode())
        audio.update(json.dumps([item.id, contents.get(item.id, "")]).encode())
    facts = synthetic_facts(home)
    generated = {} if facts is None else {key: facts[key] for key in ("generator", "seed", "size") if key in facts}
    return {
        "name": task.name, "title": task.title, "version": task.version,
        "data": "real" if facts is None else "synthetic", "checksum": sha.hexdigest(),
        "audio": audio.hexdigest(), "labels": labels.hexdigest(),
        "counts": dataset.counts, "classes": list(dataset.classes),
    } | generated  # fmt: skip
