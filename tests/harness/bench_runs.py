"""What the tests of the benchmark run: encoders with known answers, altered labels, small trees, whole tasks."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from harness.forks import FORKS
from mir_benchmarks.datasets.dataset import SPLITS, Dataset, Item, Label
from mir_benchmarks.suite.write import write_corpus
from mir_benchmarks.tasks.kind import Options
from mir_benchmarks.tasks.registry import TASKS, TaskSpec
from mir_benchmarks.tasks.run import run_task
from probes.beats.tracking import BeatScores, beat_targets, f_measure
from probes.encoders import Encoder, EncoderFacts
from probes.features.clips import Clip, trimmed, wave_digest
from probes.metrics import key_scores, score_parts
from probes.results import Result

RATE_HZ = 8_000
FRAME, BANDS = 2_000, 24  # samples and bands of the small encoder

Change = Callable[[Dataset], Dataset]


# Encoders


def oracle(task: TaskSpec, home: Path, nuisance: int = 0) -> Encoder:
    """An encoder that returns the answer: the label of a window, then `nuisance` random numbers."""
    dataset = task.read(home)
    known: dict[str, np.ndarray] = {}
    for item in dataset.items:
        wave_N = Clip(item.id, item.audio).read(RATE_HZ)
        wave_N = trimmed(wave_N, RATE_HZ) if task.windows.trim else wave_N
        for first, end in task.windows.spans(len(wave_N), RATE_HZ):
            known[wave_digest(wave_N[first:end])] = answer(task, dataset, item)

    def frames(wave_N: np.ndarray) -> np.ndarray:
        digest = wave_digest(wave_N)
        noise = np.random.default_rng(int(digest[:12], 16)).standard_normal(nuisance)
        return np.concatenate([known[digest], noise]).astype(np.float32)[None, None]

    width = len(next(iter(known.values()))) + nuisance
    return Encoder(EncoderFacts("oracle", "", RATE_HZ, 1.0, ("answer",), width), frames)


def answer(task: TaskSpec, dataset: Dataset, item: Item) -> np.ndarray:
    """The label as numbers: one or several of the classes, or the values themselves."""
    if task.kind == "regression":
        return np.array(item.label, dtype=float)
    held = item.label if isinstance(item.label, tuple) else (item.label,)
    return np.array([float(name in held) for name in dataset.classes])


def beat_oracle(home: Path) -> Encoder:
    """An encoder that returns the beats of GTZAN at 75 frames per second, and a random number beside them."""
    known = {
        wave_digest(Clip(item.id, item.audio).read(RATE_HZ)): np.array(item.label)
        for item in TASKS["gtzan_beats"].read(home).items
    }

    def frames(wave_N: np.ndarray) -> np.ndarray:
        times_T = np.arange(len(wave_N) * 75 // RATE_HZ) / 75
        beats_T = beat_targets(known[wave_digest(wave_N)], times_T)
        return np.stack([beats_T, np.random.default_rng(len(beats_T)).random(len(beats_T))], axis=-1)[None]

    return Encoder(EncoderFacts("beat oracle", "", RATE_HZ, 75.0, ("answer",), 2), frames)


class Small(Encoder):
    """24 bands four times per second, as they are, mixed, and mixed again; counts the windows it embeds.

    With `dies_at`, the process is killed at that window.
    """

    FACTS = EncoderFacts("small", "1" * 64, RATE_HZ, RATE_HZ / FRAME, ("embed", "layer01", "layer02"), BANDS)

    def __init__(self, dies_at: int | None = None) -> None:
        super().__init__(self.FACTS, bands)
        self.heard, self.dies_at = 0, dies_at

    def frames(self, wave_N: np.ndarray, window_s: float | None = None) -> np.ndarray:
        if window_s is not None:  # not a look at what is computed
            self.count()
        return super().frames(wave_N, window_s)

    def pooled(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        for wave_N in waves:
            self.count()
            yield from super().pooled([wave_N])

    def count(self) -> None:
        self.heard += 1
        if self.heard == self.dies_at:
            die()


MIXING = np.random.default_rng(0).standard_normal((2, BANDS, BANDS)) / BANDS**0.5


def bands(wave_N: np.ndarray) -> np.ndarray:
    """[3, T, D]: log bands, and two mixtures."""
    wave_N = np.pad(wave_N, (0, max(0, FRAME - len(wave_N))))
    spectrum_TF = np.abs(np.fft.rfft(wave_N[: len(wave_N) // FRAME * FRAME].reshape(-1, FRAME)))[:, : 40 * BANDS]
    bands_TD = np.log(spectrum_TF.reshape(-1, BANDS, 40).mean(axis=2) + 1e-3)
    return np.stack([bands_TD, *(np.tanh(bands_TD @ mixing) for mixing in MIXING)]).astype(np.float32)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Known answers


def metronome(seconds: float, bpm: float = 120.0) -> np.ndarray:
    """Beats that do not depend on the recording: the floor."""
    return np.arange(0, seconds, 60 / bpm)


def pooled_f(scores: Iterable[BeatScores]) -> float:
    """F of all beats together, whatever recording they belong to."""
    counts = [(score.matched, score.n_reference, score.n_estimate) for score in scores]
    return f_measure(*np.array(counts, dtype=int).reshape(-1, 3).sum(axis=0).tolist())


def task_score(metrics: Mapping[str, float], protocol: Mapping[str, str] | None = None) -> float:
    """The score of a task: the mean of its `score_parts`, SDRs in dB as if they were points."""
    return float(np.mean([metrics[name] for name in score_parts(tuple(metrics), protocol)]))


def weighted_key_score(targets_n: np.ndarray, logits_nC: np.ndarray, classes: Sequence[str]) -> float:
    """Mean of mir_eval's key score."""
    return float(key_scores(targets_n, logits_nC, classes).mean())


# Trees


def write_tree(home: Path, corpora: Iterable[str], size: str = "tiny") -> Path:
    """Corpora of the synthetic suite, written in this process."""
    with ThreadPoolExecutor(1) as pool:
        for name in corpora:
            write_corpus(home / name, name, size, 0, pool, lambda *news: None)
    return home


def write_toy(home: Path, task: str, labels: dict[str, list[Any]]) -> Path:
    """A quarter of a second of noise for each label of each split, with MARBLE's JSONL beside it."""
    folder = home / TASKS[task].corpus
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for split, of_split in labels.items():
        rows = []
        for i, label in enumerate(of_split):
            place = f"audio/{split}-{i:03d}.wav"
            soundfile.write(folder / place, 0.1 * random.standard_normal(FRAME), RATE_HZ)
            rows.append(json.dumps({"audio_path": place, "label": label}) + "\n")
        (folder / f"{task}.{split}.jsonl").write_text("".join(rows))
    return home


def copied(home: Path, corpus: str, to: Path) -> Path:
    """A copy of one corpus below `to`, to be damaged."""
    shutil.copytree(home / corpus, to / corpus)
    return to / corpus


def claim_counts(corpus: Path, task: str, **counts: int) -> None:
    """Have a generated tree claim other counts."""
    note = corpus / "SYNTHETIC.json"
    facts = json.loads(note.read_text())
    facts["counts"][task] |= counts
    note.write_text(json.dumps(facts))


# Labels


def altered(task: TaskSpec, change: Change) -> TaskSpec:
    """The task with its dataset changed after it was read."""

    class Altered(TaskSpec):
        def read(self, data_home: Path, protocol: Any = None) -> Dataset:
            return change(super().read(data_home, protocol))

    return Altered(**vars(task))


def shuffled(*splits: str, seed: int = 0) -> Change:
    """Permute the labels within each of these splits."""

    def change(dataset: Dataset) -> Dataset:
        random = np.random.default_rng(seed)
        labels: dict[str, Label] = {}
        for split in splits:
            items = dataset.split(split)
            labels |= {items[i].id: items[j].label for i, j in enumerate(random.permutation(len(items)))}
        return replace(dataset, items=tuple(replace(i, label=labels.get(i.id, i.label)) for i in dataset.items))

    return change


# Runs


def run(task: TaskSpec | str, encoder: Encoder, home: Path, out: Path, **options: Any) -> Result:
    """One task; features are kept in `out` unless `features` says where. Results there before are replaced."""
    spec = TASKS[task] if isinstance(task, str) else task
    more = {name: options.pop(name) for name in ("features", "on_fit", "overwrite") if name in options}
    more = {"overwrite": True} | more
    options["protocol"] = {"features": "standardized"} | options.get("protocol", {})  # half the fits
    return Result.load(run_task(spec, encoder, home=home, out=out, options=Options(**options), **more))


def but_times(folder: Path, task: str) -> dict[str, Any]:
    """All of a result, with its outputs, but its date, its duration, and the command, which names its own folder."""
    values: dict[str, Any] = json.loads((folder / f"{task}.json").read_text(), parse_constant=no_number)
    assert values.pop("seconds") > 0 and values.pop("date")
    values.pop("command")
    with np.load(folder / f"{task}.npz") as arrays:
        return values | {"arrays": {name: arrays[name].tobytes() for name in arrays.files if name != "seal"}}


def no_number(name: str) -> None:
    """JSON knows neither NaN nor infinity."""
    raise AssertionError(name)


def life(home: str, out: str, task: str, dies_at_clip: int | None, dies_at_fit: int | None, grid: dict) -> None:
    """A run in its own process, killed at a clip or after a fit, or left to end."""
    torch.set_num_threads(1)
    fits = 0

    def fitted(row: object, total: int) -> None:
        nonlocal fits
        fits += 1
        if fits == dies_at_fit:
            die()

    run(task, Small(dies_at_clip), Path(home), Path(out), on_fit=fitted, **grid)


def live(home: Path, out: Path, task: str, clip: int | None = None, fit: int | None = None, **grid: Any) -> int:
    """The exit code of a `life`: minus the signal that ended it, or 0."""
    process = FORKS.Process(target=life, args=(str(home), str(out), task, clip, fit, grid))
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the run hangs"
    return process.exitcode


def split_labels(counts: tuple[int, int, int], draw: Callable[[int], Any]) -> dict[str, list[Any]]:
    """Labels of as many items in train, valid and test."""
    return {split: [draw(i) for i in range(n)] for split, n in zip(SPLITS, counts, strict=True)}
