"""One model on one task: read, extract once, sweep, choose on validation, test once, and write the result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import SPLITS, Dataset, Item, TaskError, synthetic_facts
from mir_benchmarks.statistics import left_out, summarise
from mir_benchmarks.tasks.beats import beat_task
from mir_benchmarks.tasks.clips import clip_task
from mir_benchmarks.tasks.options import Evaluated, Options
from mir_benchmarks.tasks.registry import TaskSpec
from mir_benchmarks.tasks.separation import separation_task
from probes.encoders import Encoder
from probes.features.cutting import Windowing
from probes.features.matrix import FeatureMatrix
from probes.results import Result, library_versions

VOCALSET_SINGERS = 20  # its number of files is on no record
KINDS: dict[str, Callable[[TaskSpec, Dataset, FeatureMatrix, Options], Evaluated]] = {
    "classification": clip_task, "key": clip_task, "multilabel": clip_task, "regression": clip_task,
    "beats": beat_task, "separation": separation_task,
}  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where datasets lie, where features are kept, and where results go."""

    data_home: Path
    out: Path
    features: Path


def run_task(
    task: TaskSpec, encoder: Encoder, places: Places, options: Options | None = None, command: Sequence[str] = ()
) -> Path:
    """Run a task and write `out`/<task>.json (and .npz); gives the path of the JSON, which records `command`.

    TaskError if the data is missing, has other counts than it should, or cannot be heard.
    """
    started = time.perf_counter()
    options = options or Options()
    options.grid(encoder.facts.layer_names)  # refuses unknown layers before hours of hearing
    home = Path(places.data_home) / task.corpus
    dataset = task.read(places.data_home, options.protocol)
    expected = task.expected_counts(home, options.protocol)
    check_counts(task, dataset, {} if options.limit else expected, home)
    dataset = limited(in_order(dataset), options.limit)
    matrix = FeatureMatrix(places.features / task.corpus, encoder, windowing_of(task, task.protocol(options.protocol)))
    options = replace(options, journal=places.out / "journals" / f"{task.name}.jsonl")
    done = KINDS[task.kind](task, dataset, matrix, options)
    waves = {name: entry.wave for name, entry in matrix.entries.items()} | done.waves
    metrics, score = summarise(done.outputs, task.metrics, task.protocol(options.protocol))
    result = Result(
        model=model_of(encoder),
        task=task_of(task, dataset, waves, home),
        protocol=task.protocol(options.protocol) | {"features": "standardized" if options.standardize else "raw"},
        head=done.head, layer=done.layer, lr=done.lr, seeds=done.seeds, metrics=metrics, score=score,
        grid=done.grid,
        notes=[*dataset.notes, *unchecked(expected), *duplicates(dataset, waves), *done.notes,
               *left_out(done.outputs, task.metrics)],
        limit=limits(task, options, synthetic_facts(home) is not None),
        seconds=round(time.perf_counter() - started, 2), device=options.device,
        command=list(command), versions=library_versions(),
    )  # fmt: skip
    return result.save(places.out, done.outputs)


def windowing_of(task: TaskSpec, protocol: dict[str, str]) -> Windowing:
    """The task's windows under the switches chosen."""
    windowing = task.windowing
    if protocol.get("emo_window") == "15s":
        return replace(windowing, seconds=15.0)
    if protocol.get("emo_window") == "5s-of-30":
        return replace(windowing, crop_s=30.0)
    return replace(windowing, tail="keep") if protocol.get("vocalset_tail") == "keep" else windowing


def check_counts(task: TaskSpec, dataset: Dataset, expected: dict[str, int], home: Path) -> None:
    """TaskError where a split has another number of items than it should, or none."""
    if any(expected.values()) and dataset.counts != expected:
        raise TaskError(
            home, f"{task.name} has {dataset.counts}, not {expected}",
            f"`mert bench prepare {task.name} --check` lists what is missing; --limit runs on what there is",
        )  # fmt: skip
    singers = {item.label if task.name == "vocalset_singer" else item.artist for item in dataset.items}
    if task.corpus == "vocalset" and expected and not any(expected.values()) and len(singers) != VOCALSET_SINGERS:
        raise TaskError(home, f"has {len(singers)} singers, not {VOCALSET_SINGERS}", "unpack all of VocalSet")
    if empty := [split for split, n in dataset.counts.items() if not n]:
        raise TaskError(home, f"{task.name} has no items in {', '.join(empty)}", "complete the dataset")


def limits(task: TaskSpec, options: Options, synthetic: bool) -> str | None:
    """Why a number is not comparable with a full run, if it is not; fewer epochs are a suite's own choice."""
    said = [f"{options.limit} items of each split"] if options.limit else []
    if not synthetic and options.epochs(task.max_epochs) < task.max_epochs:
        said.append(f"at most {options.max_epochs} epochs")
    return ", ".join(said) or None


def unchecked(expected: dict[str, int]) -> list[str]:
    """A note where no official sizes of the splits are known, so that a part could pass for the whole."""
    return [] if any(expected.values()) else ["the sizes of the splits could not be checked: none are on record"]


def in_order(dataset: Dataset) -> Dataset:
    """The same, by ids: no number may depend on the order in which files are listed."""
    return replace(dataset, items=tuple(sorted(dataset.items, key=lambda item: item.id)))


def limited(dataset: Dataset, limit: int | None) -> Dataset:
    """At most `limit` items of each split, spread evenly over it."""
    if limit is None:
        return dataset
    kept: list[Item] = []
    for split in SPLITS:
        items = dataset.split(split)
        chosen = np.unique(np.linspace(0, len(items) - 1, min(limit, len(items))).round().astype(int))
        kept += [items[i] for i in chosen]
    facts = dict(dataset.facts)
    if "songs" in facts:
        ids = {item.id for item in kept}
        facts["songs"] = {clip: song for clip, song in facts["songs"].items() if clip in ids}
    return replace(dataset, items=tuple(kept), facts=facts)


def duplicates(dataset: Dataset, waves: Mapping[str, str]) -> list[str]:
    """A note on recordings that are bit for bit the same, once decoded, in different splits."""
    heard: dict[str, Item] = {}
    pairs = []
    for item in dataset.items:
        if item.id not in waves:
            continue
        first = heard.setdefault(waves[item.id], item)
        if first.split != item.split:
            pairs.append(f"{first.id} ({first.split}) = {item.id} ({item.split})")
    if not pairs:
        return []
    return [f"leak: {len(pairs)} recordings occur in two splits: {'; '.join(pairs[:5])}"]


def model_of(encoder: Encoder) -> dict[str, Any]:
    """Who was probed, and how it listened."""
    facts = encoder.facts.as_dict()
    return {"name": facts.pop("name"), "revision": facts.pop("revision"), "sha256": facts.pop("sha256")} | facts


def task_of(task: TaskSpec, dataset: Dataset, waves: Mapping[str, str], home: Path) -> dict[str, Any]:
    """Which data it was: real or synthetic, checksums over all of it and over labels, the sizes of its splits."""
    sha, labels = hashlib.sha256(), hashlib.sha256()
    for item in sorted(dataset.items, key=lambda item: item.id):
        sha.update(json.dumps([item.id, item.split, item.label, waves.get(item.id, "")]).encode())
        labels.update(json.dumps([item.id, item.split, item.label]).encode())
    facts = synthetic_facts(home)
    generated = {} if facts is None else {key: facts[key] for key in ("generator", "seed", "size") if key in facts}
    return {
        "name": task.name, "title": task.title, "version": task.version,
        "data": "real" if facts is None else "synthetic", "checksum": sha.hexdigest(),
        "labels": labels.hexdigest(), "counts": dataset.counts, "classes": list(dataset.classes),
    } | generated  # fmt: skip
