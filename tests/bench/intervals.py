"""How often 95 % intervals hold the truth, and how often a paired test finds a difference where there is none.

`python tests/bench/intervals.py` simulates results whose true scores are known, at the sizes of the suites and of the
datasets, computes their intervals as `mert bench run` does, compares two equally good models, and prints a table.

Shapes: n items, S seeds, C outputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.special import ndtr, ndtri

from mir_benchmarks.statistics import Jackknife, Sample, compare, interval_of, jackknifed
from probes.metrics import score_parts
from probes.results import Outputs, Result

TAGGING, EMOTION = ("roc_auc", "ap"), ("r2_arousal", "r2_valence")
SEED = 2026
ALL = (-np.inf, np.inf)

Groups = Callable[[np.random.Generator], np.ndarray]
Truth = dict[str, float]  # by metric; "score" for that of the task


@dataclass(frozen=True)
class Models:
    """Two equally good models on the same items: targets, outputs [S, n, C] of each, groups of the items."""

    targets: np.ndarray
    first: np.ndarray
    second: np.ndarray
    groups: np.ndarray
    columns: tuple[str, ...]

    def outputs(self) -> Iterator[Outputs]:
        ids = np.array([f"{i:05}" for i in range(len(self.groups))])
        return (Outputs(ids, self.targets, each, self.columns, self.groups) for each in (self.first, self.second))


Draw = Callable[[np.random.Generator], tuple[Models, Truth]]


@dataclass(frozen=True)
class Case:
    """A task of some size, simulated so many times."""

    title: str
    names: tuple[str, ...]
    repeats: int
    draw: Draw


@dataclass
class Coverage:
    """Shares of simulations: intervals that hold the truth, by metric; significant differences; median of groups."""

    held: dict[str, float]
    above: dict[str, float]  # the truth lies below the interval
    significant: float
    groups: int
    n: int = field(default=0)


def measure(case: Case, repeats: int | None = None, seed: int = SEED) -> Coverage:
    """Simulate a case."""
    random, significant, n_groups = np.random.default_rng(seed), [], []
    held: dict[str, list[bool]] = {}
    above: dict[str, list[bool]] = {}
    for _ in range(repeats or case.repeats):
        models, truth = case.draw(random)
        samples = []
        for outputs in models.outputs():
            values, n = jackknifed(outputs, case.names), len(outputs.ids)
            values["score"] = np.mean([values[name] for name in score_parts(case.names)], axis=0)
            for name, true in truth.items():
                jackknife = Jackknife(values[name], len(np.unique(models.groups)))
                low, high = interval_of(jackknife, n, score_parts(case.names) if name == "score" else (name,)) or ALL
                held.setdefault(name, []).append(low - 1e-9 <= true <= high + 1e-9)
                above.setdefault(name, []).append(true < low - 1e-9)
            n_groups.append(jackknife.n_groups)
            metrics: dict[str, dict] = {name: {} for name in case.names}
            result = Result({"name": "m"}, {"name": case.title}, {}, {}, "", 0.0, [], metrics, {}, [])
            samples.append(Sample(result, outputs, float(values["score"][0]), jackknife))
        significant.append(compare(*samples).p < 0.05)
    shares = ({name: float(np.mean(values)) for name, values in of.items()} for of in (held, above))
    return Coverage(*shares, float(np.mean(significant)), int(np.median(n_groups)), len(models.groups))


def alone(n: int) -> Groups:
    """Every item is a group."""
    return lambda random: np.arange(n)


def even(n: int, n_groups: int) -> Groups:
    """Groups of equal sizes."""
    return lambda random: np.arange(n) * n_groups // n


def uneven(n: int, n_groups: int) -> Groups:
    """Groups of very different sizes: their shares of n items are drawn from all that sum to 1."""
    return lambda random: np.sort(random.choice(n_groups, n, p=random.dirichlet(np.ones(n_groups))))


def deviates(random: np.random.Generator, groups_n: np.ndarray, effect: float, *size: int) -> np.ndarray:
    """Normal deviates [*size, n]; `effect` is the part of their variance that items of a group share."""
    numbers_n = np.unique(groups_n, return_inverse=True)[1]
    shared = random.standard_normal((*size, numbers_n.max() + 1))[..., numbers_n]
    return np.sqrt(effect) * shared + np.sqrt(1 - effect) * random.standard_normal((*size, len(groups_n)))


def accuracy(p: float, groups: Groups, effect: float = 0.0, n_seeds: int = 1) -> Draw:
    """Accuracy about p, another one each time: at small n, a fixed one would fall on or between the steps of scores."""

    def draw(random: np.random.Generator) -> tuple[Models, Truth]:
        groups_n, true = groups(random), random.uniform(p - (1 - p) / 3, p + (1 - p) / 3)
        sides = []
        for _ in range(2):
            latent_Sn = deviates(random, groups_n, effect)[None]
            if n_seeds > 1:
                latent_Sn = np.sqrt(0.7) * latent_Sn + np.sqrt(0.3) * random.standard_normal((n_seeds, len(groups_n)))
            sides.append(np.stack((latent_Sn < ndtri(true), latent_Sn >= ndtri(true)), axis=-1).astype(float))
        return Models(np.zeros(len(groups_n), int), *sides, groups_n, ("a", "b")), {"score": 100 * true}

    return draw


def keys(n: int) -> Draw:
    """Six of ten keys are right, the others off by a fifth, relative, parallel, or altogether."""
    found, shares = ("C major", "G major", "A minor", "C minor", "F# major"), (0.6, 0.1, 0.1, 0.05, 0.15)

    def draw(random: np.random.Generator) -> tuple[Models, Truth]:
        sides = [np.eye(5)[random.choice(5, n, p=shares)][None] for _ in range(2)]
        score = 100 * float(np.dot(shares, (1, 0.5, 0.3, 0.2, 0)))
        return Models(np.zeros(n, int), *sides, np.arange(n), found), {"score": score}

    return draw


def beats(n: int) -> Draw:
    """F of most recordings is near 1, of a quarter near 2/3 (half or double tempo), of the others near 0."""
    shares, betas = (0.6, 0.25, 0.15), ((20, 1.2), (20, 10), (1, 6))
    true = 100 * sum(share * a / (a + b) for share, (a, b) in zip(shares, betas, strict=True))

    def one(random: np.random.Generator) -> np.ndarray:
        values = np.stack([random.beta(a, b, n) for a, b in betas])
        return values[random.choice(3, n, p=shares), np.arange(n)][None, :, None]

    def draw(random: np.random.Generator) -> tuple[Models, Truth]:
        return Models(np.zeros(0), one(random), one(random), np.arange(n), ("f_dbn",)), {"score": true}

    return draw


def sdrs(n: int) -> Draw:
    """The best songs are close together, the worst far below."""

    def draw(random: np.random.Generator) -> tuple[Models, Truth]:
        sides = [8 - random.gamma(2, 1.5, (1, n, 1)) for _ in range(2)]
        return Models(np.zeros(0), *sides, np.arange(n), ("sdr_vocals",)), {"score": 5.0}

    return draw


def ratings(n: int, columns: tuple[str, ...], heavy: bool = False) -> Draw:
    """R2 is 0.51; errors are normal, or as heavy-tailed as a t of four degrees of freedom."""

    def draw(random: np.random.Generator) -> tuple[Models, Truth]:
        truth_nC = random.standard_normal((n, len(columns)))
        deviate = (lambda shape: random.standard_t(4, shape) / 2**0.5) if heavy else random.standard_normal
        sides = [(truth_nC + 0.7 * deviate(truth_nC.shape))[None] for _ in range(2)]
        return Models(truth_nC, *sides, np.arange(n), columns), {"score": 51.0}

    return draw


def tags(
    n_tags: int, rarest: float, commonest: float, groups: Groups, effect: float = 0.0, of_labels: float | None = None
) -> Draw:
    """Scores of positives are higher by 1.2 deviations; `effect` is what groups share of scores, and of labels too."""
    skill, of_labels = 1.2, effect if of_labels is None else of_labels
    shares_C = np.linspace(rarest, commonest, n_tags)
    scores_P = ndtri((np.arange(4000) + 0.5) / 4000) + skill  # of positives
    hits_CP, false_CP = shares_C[:, None] * ndtr(skill - scores_P), (1 - shares_C[:, None]) * ndtr(-scores_P)
    true = {"roc_auc": 100 * float(ndtr(skill / 2**0.5)), "ap": 100 * float((hits_CP / (hits_CP + false_CP)).mean())}
    true["score"] = (true["roc_auc"] + true["ap"]) / 2

    def draw(random: np.random.Generator) -> tuple[Models, Truth]:
        groups_n = groups(random)
        targets_Cn = deviates(random, groups_n, of_labels, n_tags) > ndtri(1 - shares_C)[:, None]
        sides = []
        for _ in range(2):
            noise_Cn = np.sqrt(0.7) * deviates(random, groups_n, effect, n_tags)
            noise_Cn += np.sqrt(0.3) * random.standard_normal(len(groups_n))
            sides.append((noise_Cn + skill * targets_Cn).T[None])
        columns = tuple(f"tag {i}" for i in range(n_tags))
        return Models(targets_Cn.T.astype(np.uint8), *sides, groups_n, columns), true

    return draw


CASES = (
    Case("accuracy 70 %, tiny", ("accuracy",), 2000, accuracy(0.7, alone(10))),
    Case("accuracy 90 %, tiny", ("accuracy",), 2000, accuracy(0.9, alone(10))),
    Case("accuracy 70 %, small", ("accuracy",), 1000, accuracy(0.7, alone(100))),
    Case("accuracy 98 %, small", ("accuracy",), 1000, accuracy(0.98, alone(100))),
    Case("accuracy 98 %, three seeds, small", ("accuracy",), 1000, accuracy(0.98, alone(100), n_seeds=3)),
    Case("accuracy 80 %, GTZAN", ("accuracy",), 1000, accuracy(0.8, alone(290))),
    Case("accuracy 98 %, GTZAN", ("accuracy",), 1000, accuracy(0.98, alone(290))),
    Case("accuracy 70 %, VocalSet, five singers", ("accuracy",), 1000, accuracy(0.7, even(700, 5), 0.1)),
    Case("accuracy 70 %, uneven groups", ("accuracy",), 1000, accuracy(0.7, uneven(700, 5), 0.1)),
    Case("accuracy 80 %, NSynth, notes of 60 instruments", ("accuracy",), 500, accuracy(0.8, uneven(4096, 60), 0.3)),
    Case("accuracy 80 %, NSynth, no effect of instruments", ("accuracy",), 500, accuracy(0.8, uneven(4096, 60))),
    Case("key score 69 %, tiny", ("weighted_score",), 2000, keys(12)),
    Case("key score 69 %, small", ("weighted_score",), 1000, keys(100)),
    Case("key score 69 %, GiantSteps", ("weighted_score",), 1000, keys(604)),
    Case("beat F 75 %, tiny", ("f_dbn",), 2000, beats(10)),
    Case("beat F 75 %, small", ("f_dbn",), 1000, beats(110)),
    Case("beat F 75 %, GTZAN", ("f_dbn",), 1000, beats(290)),
    Case("R² 51, tiny", EMOTION, 1000, ratings(10, ("arousal", "valence"))),
    Case("R² 51, small", EMOTION, 1000, ratings(100, ("arousal", "valence"))),
    Case("R² 51, one target, emoMusic", ("r2_arousal",), 1000, ratings(125, ("arousal",))),
    Case("R² 51, heavy tails, emoMusic", EMOTION, 1000, ratings(125, ("arousal", "valence"), heavy=True)),
    Case("SDR 5 dB, skewed, tiny", ("sdr_vocals",), 2000, sdrs(2)),
    Case("SDR 5 dB, skewed, small", ("sdr_vocals",), 2000, sdrs(14)),
    Case("SDR 5 dB, skewed, MUSDB18", ("sdr_vocals",), 1000, sdrs(50)),
    Case("20 tags of 10 to 50 %, tiny", TAGGING, 500, tags(20, 0.1, 0.5, alone(10))),
    Case("20 tags of 3 to 25 %, small", TAGGING, 1000, tags(20, 0.03, 0.25, alone(100))),
    Case("20 tags of 5 to 30 %, small, four tracks an artist", TAGGING, 500, tags(20, 0.05, 0.3, even(110, 28), 0.3)),
    Case("50 tags of 2 to 20 %, 300 items", TAGGING, 300, tags(50, 0.02, 0.2, alone(300))),
    Case("one tag of 5 %, 300 items", TAGGING, 1000, tags(1, 0.05, 0.05, alone(300))),
    Case("50 tags of 2 to 20 %, MTT, 75 artists", TAGGING, 150, tags(50, 0.02, 0.2, uneven(1860, 75), 0.5)),
    Case("50 tags of 2 to 20 %, MTT, in scores only", TAGGING, 150, tags(50, 0.02, 0.2, uneven(1860, 75), 0.5, 0.0)),
    Case("50 tags of 2 to 20 %, MTT, no effect of artists", TAGGING, 150, tags(50, 0.02, 0.2, uneven(1860, 75))),
    Case("56 tags of 0.5 to 6 %, mood/theme", TAGGING, 60, tags(56, 0.005, 0.06, alone(4231))),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose title contains this")
    parser.add_argument("--scale", type=float, default=1.0, help="times as many simulations")
    options = parser.parse_args()
    print("| case | n | groups | metric | interval holds the truth, % | truth is below it, % | p < 0.05, % |")
    print("|:--|--:|--:|:--|--:|--:|--:|")
    for case in (case for case in CASES if options.only in case.title):
        found = measure(case, max(1, round(options.scale * case.repeats)))
        for name, held in found.held.items():
            shares = (100 * held, 100 * found.above[name], *([100 * found.significant] if name == "score" else []))
            cells = (case.title, str(found.n), str(found.groups), name, *(f"{share:.1f}" for share in shares))
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
