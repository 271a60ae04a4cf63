"""The part of a model card on how a model was trained, read off the folder of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mert.errors import UsageError
from mert.files import read_json, read_rows
from mir_benchmarks.render import md_grid
from mir_benchmarks.tables import Table

UNKNOWN = "not on record"
REMEDY = "name the folder that `mert pretrain` wrote (out=)"
PATHS = ("out", "data", "teachers")  # entries of a recipe that may name folders


@dataclass(frozen=True)
class Training:
    """A run: its recipe, the rows of its metrics up to the newest checkpoint, and what that checkpoint knows."""

    folder: Path
    recipe: dict[str, Any]
    rows: list[dict[str, Any]]
    state: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Training:
        """UsageError for a folder that is no run."""
        recipe, rows = read_recipe(folder / "recipe.yaml"), read_rows(folder / "metrics.jsonl")
        if not rows:
            raise UsageError(folder, "holds no metrics of a training run", REMEDY)
        markers = sorted((folder / "ckpt").glob("step_*/COMPLETE.json"))
        newest = read_json(markers[-1]) if markers else {"step": rows[-1]["step"], "state": {}}
        return cls(folder, recipe, [row for row in rows if row["step"] <= newest["step"]], newest["state"])

    @property
    def steps(self) -> int:
        """Updates that the weights have had."""
        return int(self.rows[-1]["step"])

    @property
    def hours(self) -> float:
        """Audio heard, clips that came again counted again."""
        return float(self.steps * self.recipe["batch_clips"] * self.recipe["clip_s"] / 3600)

    @property
    def synthetic(self) -> bool:
        """Whether the music was that of the built-in generator, made on the fly or by `mert bench synth`."""
        return bool(self.recipe["data"] == "synth" or Path(self.recipe["data"], "scores.jsonl").exists())


def read_recipe(path: Path) -> dict[str, Any]:
    """The entries of a recipe.yaml, as they are; UsageError where there is none."""
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(path, f"cannot be read ({error})", REMEDY) from None
    if not isinstance(recipe, dict) or not {"data", "teachers", "batch_clips", "clip_s"} <= set(recipe):
        raise UsageError(path, "is no recipe", REMEDY)
    return recipe


def portable(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe in which folders have their last names only: it says what was done, not on whose machine.

    >>> portable({"out": "/a/run", "data": "hf:org/music", "teachers": ["/b/mel_rvq", "cqt"], "steps": 5})
    {'out': 'run', 'data': 'hf:org/music', 'teachers': ['mel_rvq', 'cqt'], 'steps': 5}
    """
    return {key: _named(value, key in PATHS) for key, value in recipe.items()}


def _named(value: Any, is_path: bool) -> Any:
    if isinstance(value, dict):
        return {key: _named(of, is_path) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_named(of, is_path) for of in value]
    if isinstance(value, str) and (PurePath(value).is_absolute() or (is_path and not value.startswith("hf:"))):
        return PurePath(value).name
    return value


def training_section(training: Training | None, hardware: str | None) -> str:
    """Facts of the run, what it reached on held-out music, and its curves."""
    if training is None:
        return f"## Training\n\nNot measured: no run was given. Hardware: {hardware or UNKNOWN}."
    facts = Table("", ("", ""), [*_facts(training), ("hardware", hardware or UNKNOWN)], text=frozenset({""}))
    parts = ["## Training", md_grid(facts).strip(), *_held_out(training)]
    if (training.folder / "curves.png").exists():
        parts.append("![loss, held-out accuracy and error, gradient norm by step](curves.png)")
    return "\n\n".join(parts)


def _facts(training: Training) -> list[tuple[str, str]]:
    recipe = portable(training.recipe)
    said = {key: recipe.get(key, UNKNOWN) for key in (
        "lr", "warmup_steps", "betas", "eps", "weight_decay", "clip_norm", "mask_probability", "mask_length", "seed",
        "dtype", "group_clips", "steps", "filterbank_start", "codebook_start",
    )}  # fmt: skip
    mixing, weights = recipe.get("mixing") or {}, recipe.get("weights") or {}
    options = "".join(f", {key} {value}" for key, value in (recipe.get("data_options") or {}).items())
    source = recipe["data"] + ", the built-in generator's music: all of it synthetic" * training.synthetic
    seconds = [row["seconds"] for row in training.rows if "seconds" in row]
    took = f"{sum(seconds) / 3600:.2f} h in steps, median {np.median(seconds):.2f} s a step" if seconds else UNKNOWN
    skipped = sum("skipped" in row for row in training.rows)
    return [
        ("data", f"{source}{options}; corpus {str(training.state.get('corpus', UNKNOWN))[:12]}"),
        *_teachers(training),
        ("steps", f"{training.steps:,} of {said['steps']:,}" + f", {skipped} of them skipped" * bool(skipped)),
        ("batch", f"{recipe['batch_clips']} clips of {recipe['clip_s']:g} s in groups of {said['group_clips']}"),
        ("audio heard", f"{training.hours:.1f} h"),
        ("masking", f"probability {said['mask_probability']}, spans of {said['mask_length']} frames"),
        ("mixing", _pairs(mixing)),
        ("weights of the losses", _pairs(weights)),
        ("optimiser", f"AdamW, betas {said['betas']}, eps {said['eps']}, weight decay {said['weight_decay']}, "
                      f"gradients clipped at {said['clip_norm']}"),
        ("learning rate", f"{said['lr']} after {said['warmup_steps']} steps of warm-up, then linear to 0"),
        ("informed starts", f"filterbank {said['filterbank_start']}, codebooks {said['codebook_start']}"),
        ("seed, precision", f"{said['seed']}, {said['dtype']}"),
        ("time", took),
    ]  # fmt: skip


def _teachers(training: Training) -> list[tuple[str, str]]:
    """A row a teacher: what its folder says, or else what the checkpoint knows."""
    prints, licences = (training.state.get(of, {}) for of in ("teachers", "licences"))
    rows = []
    for named in training.recipe["teachers"]:
        name = PurePath(named).name
        facts = read_json(Path(named, "teacher.json")) if Path(named, "teacher.json").exists() else {}
        kind = facts.get("name", name)
        codebooks = _codebooks(Path(named, "teacher.safetensors"))
        said = [codebooks, _pairs(facts.get("settings", {})), facts.get("licence") or licences.get(kind)]
        print_ = str(facts.get("fingerprint") or prints.get(kind) or UNKNOWN)[:12]
        rows.append(("teacher", "; ".join([kind, *filter(None, said), f"fingerprint {print_}"])))
    return rows


def _codebooks(path: Path) -> str:
    """How many codebooks of how many classes a fitted teacher holds, if it does."""
    try:
        with safe_open(path, framework="np") as file:
            n_codebooks, n_classes, _ = file.get_slice("codebooks").get_shape()
    except (OSError, SafetensorError, ValueError):
        return ""
    return f"{n_codebooks} codebooks of {n_classes} classes"


def _pairs(values: Mapping[str, Any]) -> str:
    """Settings on one line, nested ones flat.

    >>> _pairs({"mel": {"hop": 320, "n_fft": 2048}})
    'hop 320, n_fft 2048'
    """
    return ", ".join(_pairs(of) if isinstance(of, dict) else f"{key} {json.dumps(of)}" for key, of in values.items())


def _held_out(training: Training) -> list[str]:
    """How well masked frames of held-out music were guessed, at the last validation."""
    rows = [row for row in training.rows if "valid/loss" in row]
    if not rows:
        return ["Held-out music: not measured."]
    last = rows[-1]
    n_clips = training.recipe.get("validate_clips", UNKNOWN)
    parts = [f"Masked frames of {n_clips} held-out clips at step {last['step']:,}: loss {last['valid/loss']:.3f}."]
    for key in last:
        name, _, what = key.removeprefix("valid/").rpartition("/")
        if what == "accuracy_0":
            parts.append(f"Codes of `{name}`:\n\n" + md_grid(_codes(last, f"valid/{name}")).strip())
        elif what == "error":
            parts.append(f"Squared error of `{name}`: {last[key]:.3f} of that of predicting each bin's training mean.")
    return parts


def _codes(row: Mapping[str, Any], stem: str) -> Table:
    """Accuracy of each codebook beside the share of its most frequent code, which needs no listening."""
    n_codebooks = sum(1 for _ in takewhile(lambda k: f"{stem}/accuracy_{k}" in row, count()))

    def cells(what: str, scale: float, digits: int) -> Sequence[str]:
        found = (row.get(f"{stem}/{what}_{k}") for k in range(n_codebooks))
        return [UNKNOWN if value is None else f"{scale * value:.{digits}f}" for value in found]

    rows = [
        ("accuracy, %", *cells("accuracy", 100, 2)),
        ("share of the most frequent code, %", *cells("most_frequent", 100, 2)),
        ("perplexity of the codes", *cells("perplexity", 1, 0)),
    ]
    return Table("", ("codebook", *(str(k + 1) for k in range(n_codebooks))), rows)
