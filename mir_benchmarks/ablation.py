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


@dataclass(frozen=True)
class Variant:
    """A difference to the base: an acoustic teacher (with the arguments that fit it), or overrides of the recipe."""

    name: str
    title: str
    teacher: tuple[str, ...] = ("mel_rvq",)
    cqt: bool = True
    overrides: tuple[str, ...] = ()

    @property
    def teacher_folder(self) -> str:
        """Name of the fitted teacher, shared by the variants that learn from it."""
        return "-".join(part.replace("=", "_") for part in self.teacher)


VARIANTS = (
    Variant(BASE, "the shipped recipe: mel_rvq, CQT, noise mixing"),
    Variant("kmeans-mfcc", "k-means of MFCC", ("kmeans", "features=mfcc", "n_classes=500")),
    Variant("kmeans-mel-chroma", "k-means of log-mel times chroma", ("kmeans", "features=mel_chroma")),
    Variant("random-projection", "a random projection quantised", ("random_projection",)),
    Variant("codec", "a codec of EnCodec's architecture, fitted on the corpus", ("encodec_small",)),
    Variant("no-cqt", "no constant-Q transform", cqt=False),
    Variant("no-mixing", "no noise mixing", overrides=("mixing.apply_prob=0",)),
)


@dataclass(frozen=True)
class Ablation:
    """Folders, seeds of the pretraining, overrides of the recipe that all variants share, and options of the probes."""

    folder: Path
    data_home: Path
    suite: str = "small"
    seeds: tuple[int, ...] = (0, 1)
    overrides: tuple[str, ...] = ()
    probe: tuple[str, ...] = ("--lrs", "1e-3,5e-3", "--seeds", "0")

    def commands(self, variants: Sequence[Variant] = VARIANTS) -> Iterator[tuple[Path, list[str]]]:
        """Every step in order: (file that exists when it is done, arguments of `mert`).

        >>> steps = list(Ablation(Path("a"), Path("d")).commands(VARIANTS[:1]))
        >>> [arguments[0] for _, arguments in steps] == ["fit-teacher", *["pretrain", "export", *["bench"] * 4] * 2]
        True
        """
        for variant in variants:
            teacher = self.folder / "teachers" / variant.teacher_folder
            name, *settings = variant.teacher
            sets = [word for setting in settings for word in ("--set", setting)]
            fit = ["fit-teacher", name, "synth", "-o", str(teacher), "--clips", "600", *sets]
            yield teacher / "teacher.json", fit
            for seed in self.seeds:
                yield from self._seed(variant, seed, teacher)

    def _seed(self, variant: Variant, seed: int, teacher: Path) -> Iterator[tuple[Path, list[str]]]:
        run, model, results = (self.folder / kind / f"{variant.name}-{seed}" for kind in ("runs", "models", "results"))
        teachers = f"{teacher},cqt" if variant.cqt else str(teacher)
        yield model / "model.safetensors", [
            "pretrain", "mert-nano-1", f"teachers={teachers}", f"seed={seed}", f"out={run}",
            *self.overrides, *variant.overrides,
        ]  # fmt: skip
        yield model / "model.safetensors", ["export", str(run), str(model)]
        for task in PROBED:
            yield results / f"{task}.json", [
                "bench", "run", "-m", str(model), "-t", task, "--suite", self.suite,
                "--data-home", str(self.data_home), "-o", str(results), *self.probe,
            ]  # fmt: skip

    def run(self, variants: Sequence[Variant] = VARIANTS, on_command: Callable[[str], None] = print) -> None:
        """Run every step that is not done; MertError with the last line of its output where one fails.

        UsageError where the folder was begun with other overrides, because its models would not be comparable.
        """
        plan, path = {"suite": self.suite, "overrides": list(self.overrides)}, self.folder / "ablation.json"
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

    def compared(self, variants: Sequence[Variant] = VARIANTS) -> Iterator[tuple[Variant, Comparison, list[float]]]:
        """Each variant against the base on each task: the mean over pretraining seeds, and each seed's difference.

        The interval is over test items; the spread over pretraining is that of the seeds.
        """
        for variant in variants:
            for task in PROBED if variant.name != BASE else ():
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
