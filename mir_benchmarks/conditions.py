"""What makes two results of a task comparable, and what a reader must know of one: one definition for all reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probes.features.scaling import SCALINGS
from probes.features.stores import layer_options
from probes.results import Result
from probes.sweep import LRS, SEEDS

DATA = ("name", "version", "data", "generator", "seed", "size", "counts", "labels")  # of a task
HUB, MARBLE = "hub", "marble"  # protocols
MARBLE_SEEDS = (1234,)
LEAK, DAMAGED = "leak: ", "damaged: "  # notes begin with these
FEW = 20  # groups, below which an interval may hold the truth in less than 93 %
SIGNS = {
    "*": "synthetic data: these numbers are not comparable with published ones, which are on the real data",
    "†": "not comparable with a full run; see the details",
    "‡": "fitted otherwise than in full (a linear head, or fewer layers, scalings, rates or seeds); see the details",
    "§": "test data that is also trained on, or damaged audio; see the notes",
    "~": f"fewer than {FEW} independent groups of test items: the interval is rough",
}


@dataclass(frozen=True)
class Searched:
    """The grid of a result: its layers (None: all that the model offers), scalings, rates and seeds; where it has few.

    Of several scalings, only the better one of each layer is fitted with all seeds.
    """

    layers: tuple[str, ...] | None
    scalings: tuple[str, ...]
    lrs: tuple[float, ...]
    seeds: tuple[int, ...]
    n_layers: int
    few: frozenset[str]

    @classmethod
    def of(cls, result: Result) -> Searched:
        layers, lrs, seeds = (
            tuple(dict.fromkeys(row[name] for row in result.grid)) for name in ("layer", "lr", "seed")
        )
        scalings = scalings_of(result)
        offered = layer_options(tuple(result.model.get("layer_names", layers)))
        whole = set(offered) <= set(layers)
        is_marble = protocol_of(result)["protocol"] == MARBLE
        n_scalings, n_seeds = (1, len(MARBLE_SEEDS)) if is_marble else (len(SCALINGS), len(SEEDS))
        few = {
            "layers": not whole, "scalings": len(scalings) < n_scalings, "rates": len(lrs) < len(LRS),
            "seeds": len(seeds) < n_seeds,
        }  # fmt: skip
        searched = None if whole else tuple(sorted(layers))
        fewer = frozenset(name for name, is_few in few.items() if is_few)
        return cls(searched, scalings, tuple(sorted(lrs)), tuple(sorted(seeds)), len(layers), fewer)

    def __str__(self) -> str:
        sizes = self.n_layers, len(self.scalings), len(self.lrs), len(self.seeds)
        counts = dict(zip(("layers", "scalings", "rates", "seeds"), sizes, strict=True))
        return " x ".join(f"{n}{'!' * (name in self.few)}" for name, n in counts.items())


def protocol_of(result: Result) -> dict[str, str]:
    """The protocol of a result with its switches; results that do not name it are of the hub's."""
    return {"protocol": HUB} | result.protocol


def scalings_of(result: Result) -> tuple[str, ...]:
    """The scalings of features that validation chose from, or the one that was fixed."""
    return SCALINGS if result.protocol.get("features") == "auto" else (result.scaling,)


def differences(first: Result, second: Result) -> list[str]:
    """Why two results of a task are not comparable: the facts of data, protocol and fitting in which they differ.

    Layers are alike where both searched all that their models offer, the same ones, or a single one each.
    """
    differ = [key for key in DATA if first.task.get(key) != second.task.get(key)]
    differ += ["audio"] * (not _same_audio(first, second))
    differ += ["protocol"] * (protocol_of(first) != protocol_of(second)) + ["limit"] * (first.limit != second.limit)
    differ += ["head"] * (not _agree(first.head, second.head, tuple(first.head)))
    a, b = Searched.of(first), Searched.of(second)
    differ += ["layers"] * (a.layers != b.layers and not a.n_layers == b.n_layers == 1)
    differ += ["learning rates"] * (a.lrs != b.lrs) + ["seeds"] * (a.seeds != b.seeds)
    return differ + [key for key in ("dtype", "context") if not _agree(first.model, second.model, (key,))]


def marks(result: Result) -> list[str]:
    """What a reader must know of a result, in words."""
    return list(_marks(result).values())


def signs(*results: Result) -> str:
    """The signs of results, as SIGNS explains them."""
    held = {sign for result in results for sign in _marks(result)}
    return "".join(sign for sign in SIGNS if sign in held)


def is_linear(result: Result) -> bool:
    """Whether its head has no hidden layer."""
    return result.head.get("kind") == "linear"


def _marks(result: Result) -> dict[str, str]:
    flaws = [note.partition(":")[0] for note in result.notes if note.startswith((LEAK, DAMAGED))]
    found = {
        "*": "synthetic" * (result.task["data"] == "synthetic"),
        "†": f"not comparable: {result.limit}" * bool(result.limit),
        "‡": ", ".join(["reduced grid"] * bool(Searched.of(result).few) + ["linear head"] * is_linear(result)),
        "§": ", ".join(flaws),
        "~": "rough interval" * (result.score.get("groups", result.score["n"]) < FEW),
    }
    return {sign: text for sign, text in found.items() if text}


def _agree(first: Mapping[str, Any], second: Mapping[str, Any], keys: tuple[str, ...]) -> bool:
    """Whether facts are equal that both results record: older ones record less."""
    return all(first[key] == second[key] for key in keys if key in first and key in second)


def _same_audio(first: Result, second: Result) -> bool:
    """By the files, or else by what was decoded of them, which depends on the rate of the encoder."""
    if first.task.get("audio") == second.task.get("audio") is not None:
        return True
    if first.model.get("sample_rate") == second.model.get("sample_rate"):
        return bool(first.task.get("checksum") == second.task.get("checksum"))
    return _agree(first.task, second.task, ("audio",))
