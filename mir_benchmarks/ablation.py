"""Ablation of pretraining: variants of a recipe in one factor each, probed on four tasks, compared with the base.

Every step is a command of `mert` that resumes where it was interrupted, and so does the whole. After
table 3 of the MERT paper (arXiv 2306.00107).
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mert.errors import MertError, UsageError
from mert.files import read_json, write_json
from mir_benchmarks.statistics import Comparison, Sample, compare
from probes.results import Result, load_outputs

PROBED = ("mtt", "giantsteps_key", "gtzan_genre", "emomusic")
BASE = "base"
FITTED = ("kmeans", "mel_rvq", "random_projection", "encodec_small")  # teachers that are fitted on the corpus first


@dataclass(frozen=True)
class Variant:
    """What differs from the base in one factor: teachers (a name with the arguments that fit it), or overrides."""

    name: str
    title: str
    teachers: tuple[str, ...]
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What is varied: the recipe of a bundled model, the suite to probe on, and the variants, the base first.

    With `sampled` the corpus is an hour of sampled music, made and tokenized once; else the generator's, without end.
    """

    recipe: str
    suite: str
    tasks: tuple[str, ...]
    probe: tuple[str, ...]
    variants: tuple[Variant, ...]
    sampled: bool = False


MFCC, RVQ = "kmeans features=mfcc n_classes=300", "mel_rvq n_codebooks=3 n_classes=512"
PLANS = {
    plan.recipe: plan
    for plan in (
        Plan(
            "mert-nano-1", "small", PROBED, ("--lrs", "1e-3,5e-3", "--seeds", "0"),
            (
                Variant(BASE, "the shipped recipe: mel_rvq, CQT, noise mixing", ("mel_rvq", "cqt")),
                Variant("kmeans-mfcc", "k-means of MFCC", ("kmeans features=mfcc n_classes=500", "cqt")),
                Variant("kmeans-mel-chroma", "k-means of log-mel times chroma", ("kmeans features=mel_chroma", "cqt")),
                Variant("random-projection", "a random projection quantised", ("random_projection", "cqt")),
                Variant("codec", "a codec of EnCodec's architecture, fitted on the corpus", ("encodec_small", "cqt")),
                Variant("no-cqt", "no constant-Q transform", ("mel_rvq",)),
                Variant("no-mixing", "no noise mixing", ("mel_rvq", "cqt"), ("mixing.apply_prob=0",)),
            ),
        ),
        Plan(
            "mert-nano", "sampled", ("mtt", "giantsteps_key", "nsynth_instrument", "nsynth_pitch"),
            ("--layers", "layer05", "--lrs", "1e-3,5e-3", "--seeds", "0"),
            (
                Variant(BASE, "the shipped teachers", (MFCC, RVQ, "cqt", "musicnn", "basic_pitch")),
                Variant("no-codes", "no codes", ("cqt", "musicnn", "basic_pitch")),
                Variant("no-cqt", "no constant-Q transform", (MFCC, RVQ, "musicnn", "basic_pitch")),
                Variant("no-musicnn", "no musicnn", (MFCC, RVQ, "cqt", "basic_pitch")),
                Variant("no-basic-pitch", "no basic_pitch", (MFCC, RVQ, "cqt", "musicnn"), ("weights.teachers={}",)),
            ),
            sampled=True,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Ablation:
    """A plan in a folder, seeds of the pretraining, and overrides of the recipe that all variants share."""

    folder: Path
    plan: Plan = PLANS["mert-nano"]
    seeds: tuple[int, ...] = (0, 1)
    overrides: tuple[str, ...] = ()

    def commands(self, variants: Sequence[Variant] = ()) -> Iterator[tuple[Path, list[str]]]:
        """Every step in order: (file that exists when it is done, arguments of `mert`); by default of all variants.

        >>> ablation = Ablation(Path("a"), PLANS["mert-nano-1"])
        >>> steps = [arguments[0] for _, arguments in ablation.commands(ablation.plan.variants[:1])]
        >>> steps == ["fit-teacher", *["pretrain", "export", *["bench"] * 4] * 2]
        True
        """
        if self.plan.sampled:
            music = self.folder / "music"
            yield music / "scores.jsonl", [
                "bench", "synth", "1", "--sampled", "--seconds", "3", "--format", "wav", "-o", str(music),
            ]  # fmt: skip
            yield Path(self._corpus) / "report.jsonl", ["prepare", str(music / "scores.jsonl"), "-o", self._corpus]
        for variant in variants or self.plan.variants:
            for teacher in variant.teachers:
                yield from self._teacher(teacher)
            for seed in self.seeds:
                yield from self._seed(variant, seed)

    @property
    def _corpus(self) -> str:
        return str(self.folder / "store") if self.plan.sampled else "synth"

    def _teacher(self, teacher: str) -> Iterator[tuple[Path, list[str]]]:
        """Fit a teacher, once for the variants that learn from it, and keep its targets of a corpus that has an end."""
        name, *settings = teacher.split()
        folder = self._folder_of(teacher)
        if name in FITTED:
            sets = [word for setting in settings for word in ("--set", setting)]
            yield folder / "teacher.json", [
                "fit-teacher", name, self._corpus, "-o", str(folder), "--clips", "600", *sets
            ]  # fmt: skip
        if self._is_tokenized(teacher):
            source, store = str(folder) if name in FITTED else name, self._source_of(teacher)
            yield Path(store, "index.arrow"), ["tokenize", self._corpus, "--teacher", source, "-o", store]

    def _folder_of(self, teacher: str) -> Path:
        return self.folder / "teachers" / "-".join(teacher.replace("=", "_").split())

    def _is_tokenized(self, teacher: str) -> bool:
        return self.plan.sampled and teacher != "cqt"

    def _source_of(self, teacher: str) -> str:
        """What `teachers=` names: a store of targets, a fitted teacher, or a name."""
        if self._is_tokenized(teacher):
            return str(self.folder / "targets" / self._folder_of(teacher).name)
        return str(self._folder_of(teacher)) if teacher.split()[0] in FITTED else teacher

    def _seed(self, variant: Variant, seed: int) -> Iterator[tuple[Path, list[str]]]:
        run, model, results = (self.folder / kind / f"{variant.name}-{seed}" for kind in ("runs", "models", "results"))
        teachers = ",".join(map(self._source_of, variant.teachers))
        data = [f"data={self._corpus}"] * self.plan.sampled
        yield model / "model.safetensors", [
            "pretrain", self.plan.recipe, *data, f"teachers={teachers}", f"seed={seed}", f"out={run}",
            *self.overrides, *variant.overrides,
        ]  # fmt: skip
        yield model / "model.safetensors", ["export", str(run), str(model)]
        for task in self.plan.tasks:
            yield results / f"{task}.json", [
                "bench", "run", "-m", str(model), "-t", task, "--suite", self.plan.suite,
                "--data-home", str(self.folder / f"suite-{self.plan.suite}"), "-o", str(results), *self.plan.probe,
            ]  # fmt: skip

    def run(self, variants: Sequence[Variant] = (), on_command: Callable[[str], None] = print) -> None:
        """Run every step that is not done; MertError with the last line of its output where one fails.

        UsageError where the folder was begun with other overrides, because its models would not be comparable.
        """
        path = self.folder / "ablation.json"
        plan = {"recipe": self.plan.recipe, "suite": self.plan.suite, "overrides": list(self.overrides)}
        if path.exists() and read_json(path) != plan:
            raise UsageError(path, f"was begun with {read_json(path)}", "give the same, or another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, plan)
        for done, arguments in self.commands(variants):
            if done.exists():
                continue
            on_command("mert " + " ".join(arguments))
            ended = subprocess.run([sys.executable, "-m", "mert.cli", *arguments], capture_output=True, text=True)
            if ended.returncode:
                words = (ended.stderr.strip().splitlines() or ["no message"])[-1]
                raise MertError(
                    f"mert {arguments[0]}", f"failed ({words})", "fix that, then run the same command again"
                )

    def compared(self, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Comparison, list[float]]]:
        """Each variant against the base on each task: the mean over pretraining seeds, and each seed's difference.

        The interval is over test items; the spread over pretraining is that of the seeds.
        """
        for variant in variants:
            for task in self.plan.tasks if variant.name != BASE else ():
                tried, base = ([self._sample(name, seed, task) for seed in self.seeds] for name in (variant.name, BASE))
                each = [compare(one, other).difference for one, other in zip(tried, base, strict=True)]
                yield variant, compare(mean_of(tried), mean_of(base)), each

    def _sample(self, variant: str, seed: int, task: str) -> Sample:
        path = self.folder / "results" / f"{variant}-{seed}" / f"{task}.json"
        return Sample.of(Result.load(path), load_outputs(path))


def mean_of(samples: Sequence[Sample]) -> Sample:
    """The mean score of several models on the same items: as if they were seeds of one."""
    outputs = samples[0].outputs
    together = np.concatenate([sample.outputs.outputs for sample in samples])
    return Sample.of(samples[0].result, replace(outputs, outputs=together))
