"""The measured sections of a model card, each from the files of a measurement: training, results, robustness, limits.

Beside each number stands the command that gives it again.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, takewhile
from math import prod
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mert.errors import CheckpointError, UsageError
from mert.files import read_json, read_rows, sha256_file, write_whole
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.invariance.robustness import robustness_tables
from mir_benchmarks.invariance.segments import SCHEMA
from mir_benchmarks.invariance.triplets import triplets_table
from mir_benchmarks.report.runs import Run, load_runs
from mir_benchmarks.report.tables import Table, scores_table, unit_of
from mir_benchmarks.report.text import md_grid, md_text
from mir_benchmarks.statistics import Comparison, Sample, compare
from mir_benchmarks.tasks.options import SUITE_SWITCHES, TINY_EPOCHS, Suite
from mir_benchmarks.tasks.registry import TASKS
from probes.results import Result


def training_commands(run: Path, model: Path) -> Iterator[str]:
    """From the recipe that lies beside the card to the model."""
    yield shlex.join(["mert", "pretrain", "recipe.yaml", f"out={run.name}"])
    yield shlex.join(["mert", "export", run.name, model.name, *["--half"] * is_half(model / "model.safetensors")])


def is_half(weights: Path) -> bool:
    """Whether a model's weights are stored in 16 bits."""
    with safe_open(weights, framework="np") as file:
        return any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118


def run_commands(run: Run, name: str) -> Iterator[str]:
    """`mert bench run` for all results of a model, a line for each way in which they were made."""
    tasks: dict[tuple[str, ...], list[str]] = {}
    for task, result in run.results.items():
        tasks.setdefault(tuple(_options(result)), []).append(task)
    for options, names in tasks.items():
        words = ["mert", "bench", "run", "-m", name, "-t", ",".join(names), *options, "-o", f"results/{name}"]
        yield shlex.join(words)


def _options(result: Result) -> Iterator[str]:
    """What differs from the defaults of `mert bench run`."""
    spec, size = TASKS[result.task["name"]], result.task.get("size")
    suite = Suite(size) if size in set(Suite) else None
    yield from ("--suite", suite.value) if suite else ("--data-home", "DATA")
    layers = list(dict.fromkeys(str(row["layer"]) for row in result.grid))
    if not set(result.model.get("layer_names", layers)) <= set(layers):
        yield from ("--layers", ",".join(layers))
    yield from ("--lrs", ",".join(f"{rate:g}" for rate in sorted({row["lr"] for row in result.grid})))
    yield from ("--seeds", ",".join(str(seed) for seed in sorted({row["seed"] for row in result.grid})))
    if result.head.get("kind") == "linear":
        yield from ("--head", "linear")
    epochs = spec.max_epochs if spec.kind == "separation" else result.head.get("max_epochs", spec.max_epochs)
    if epochs < min(spec.max_epochs, TINY_EPOCHS if suite is Suite.tiny else spec.max_epochs):
        yield from ("--max-epochs", str(epochs))
    if limit := re.match(r"(\d+) items", result.limit or ""):
        yield from ("--limit", limit[1])
    if result.model.get("context") == "training":
        yield from ("--context", "training")
    if result.protocol.get("features") == "raw":
        yield "--raw"
    usual = spec.protocol() | (SUITE_SWITCHES[suite] if suite else {})
    for switch, value in result.protocol.items():
        if switch in spec.switches and value != usual[switch]:
            yield from ("--set", f"{switch}={value}")


def segments_command(kind: str, measured: Mapping[str, Any], names: Sequence[str]) -> str:
    """`mert bench robustness` or `triplets`; its JSON says which recordings they were."""
    words = ["mert", "bench", kind, *(word for name in names for word in ("-m", name))]
    if measured["segment_s"] != 3:
        words += ["--segment-s", f"{measured['segment_s']:g}"]
    if all(one["model"].get("context") == "window" for one in measured["models"]):
        words += ["--context", "window"]
    return shlex.join([*words, "AUDIO", "-o", f"{kind}.json"])


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


MARK = "<!-- measured: what follows is written by `mert bench card` -->"
MISSING = "Not measured."


@dataclass(frozen=True)
class Sources:
    """Where the numbers come from; what is None is not measured. `commands` are those that came before the training."""

    run: Path | None = None
    results: Path | None = None
    beside: tuple[Path, ...] = ()
    twin: Path | None = None
    robustness: Path | None = None
    triplets: Path | None = None
    hardware: str | None = None
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What was measured on one model, checked to be of its weights; the model goes by the name of its folder."""

    folder: Path
    training: Training | None
    run: Run | None
    beside: tuple[Run, ...]
    twin: Run | None
    robustness: dict[str, Any] | None
    triplets: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path, sources: Sources) -> Evidence:
        """TaskError or UsageError where something belongs to other weights, or is not what it should be."""
        sha256, name = sha256_file(folder / "model.safetensors"), folder.resolve().name
        training = None if sources.run is None else Training.read(sources.run)
        held = folder / "recipe.yaml"
        if training and held.exists() and portable(read_recipe(held)) != portable(training.recipe):
            raise UsageError(training.folder, f"has another recipe than {name}", "give the run that it came from")
        run, twin = (None if path is None else load_runs([path])[0] for path in (sources.results, sources.twin))
        if run is not None:
            if any(result.model.get("sha256") != sha256 for result in run.results.values()):
                raise TaskError(sources.results or "", f"holds results of other weights than {name}'s", "run it again")
            run = replace(run, label=name)
        beside = tuple(load_runs([path])[0] for path in sources.beside)
        measured = (
            None if path is None else read_measured(path, kind, sha256, name)
            for path, kind in ((sources.robustness, "robustness"), (sources.triplets, "triplets"))
        )
        return cls(folder, training, run, beside, twin, *measured)

    @property
    def runs(self) -> list[Run]:
        """The model's results first; those of one name are told apart by a number."""
        found: list[Run] = []
        for run in filter(None, (self.run, *self.beside, self.twin)):
            n_same = sum(one.label.partition(" #")[0] == run.label for one in found)
            found.append(replace(run, label=f"{run.label} #{n_same + 1}") if n_same else run)
        return found


def read_measured(path: Path, kind: str, sha256: str, name: str) -> dict[str, Any]:
    """A JSON of `mert bench robustness` or `triplets` that holds these weights."""
    measured = read_json(path)
    if (measured.get("format"), measured.get("schema")) != (f"mert-{kind}", SCHEMA):
        raise UsageError(path, f"is not of `mert bench {kind}`, schema {SCHEMA}", "measure it again")
    own = [one for one in measured["models"] if one["model"].get("sha256") == sha256]
    if not own:
        raise TaskError(path, f"holds nothing of {name}'s weights", f"run `mert bench {kind}` on them")
    for one in own:
        one["model"]["name"] = name
    return measured


def write_card(folder: Path, sources: Sources) -> Path:
    """Write the measured sections of README.md; a second time gives the same file. Returns its path.

    The run's curves and recipe, without folders of this machine, are put beside it.
    """
    path = folder / "README.md"
    if not path.is_file() or not (folder / "model.safetensors").is_file():
        raise CheckpointError(folder, "holds no model with a card", "give what `mert export` wrote")
    evidence = Evidence.read(folder, sources)
    said = path.read_text(encoding="utf-8").partition(MARK)[0].rstrip()
    sections = (
        training_section(evidence.training, md_text(sources.hardware) if sources.hardware else None),
        results_section(evidence),
        robustness_section(evidence.robustness),
        recordings_section(evidence.triplets),
        limits_section(evidence),
        repeat_section(evidence, sources),
    )
    if evidence.training:
        ship(evidence.training, folder)
    with write_whole(path) as temporary:
        temporary.write_text("\n\n".join([said, MARK, *sections]) + "\n", encoding="utf-8", newline="\n")
    return path


def ship(training: Training, folder: Path) -> None:
    """Put curves and recipe beside the card."""
    import yaml

    curves = training.folder / "curves.png"
    if curves.exists() and curves.resolve() != (folder / curves.name).resolve():
        with write_whole(folder / curves.name) as temporary:
            shutil.copyfile(curves, temporary)
    with write_whole(folder / "recipe.yaml") as temporary:
        temporary.write_text(yaml.safe_dump(portable(training.recipe), sort_keys=False), encoding="utf-8")


def results_section(evidence: Evidence) -> str:
    """Scores of all tasks beside those of other models, and the difference to the twin."""
    run, twin = evidence.run, evidence.twin
    if run is None:
        return f"## Results\n\n{MISSING}"
    title = "Results on the synthetic suite" if run.synthetic else "Results"
    scores = scores_table(evidence.runs)
    compared = {} if twin is None else dict(compare_runs(run, twin))
    layers = {TASKS[name].title: result.layer for name, result in run.results.items()}
    titled = {TASKS[name].title: difference_cell(run, name, one) for name, one in compared.items()}
    alike = all(set(one.results) == set(run.results) for one in evidence.runs)  # else means are of different tasks
    rows = [
        (*row, layers.get(row[0], ""), *([titled.get(row[0], "")] if twin else []))
        for row in scores.rows
        if alike or not row[0].startswith("mean of")
    ]
    columns = (*scores.columns, f"layer of {run.label}", *(("minus the twin [95 % CI]",) if twin else ()))
    table = replace(scores, columns=columns, rows=rows, text=frozenset({columns[len(scores.columns)]}))
    parts = [f"## {title}", md_grid(table).strip()]
    if missing := [TASKS[name].title for name in TASKS if name not in run.results]:
        parts.append(f"Not measured on this model: {', '.join(missing)}.")
    return "\n\n".join([*parts, *([] if twin is None else [twin_note(evidence.runs[-1].label, compared)])])


def compare_runs(run: Run, twin: Run) -> Iterator[tuple[str, Comparison | None]]:
    """The comparison on each task that both have with their outputs; None where the two may not be compared."""
    for name in run.results:
        if name in run.outputs and name in twin.outputs:
            mine, other = (Sample.of(one.results[name], one.outputs[name]) for one in (run, twin))
            try:
                yield name, compare(mine, other)
            except TaskError:
                yield name, None


def difference_cell(run: Run, name: str, compared: Comparison | None) -> str:
    """Difference and interval, in the unit of the task."""
    if compared is None:
        return "not comparable"
    digits = 2 if unit_of(run.results[name]) == "dB" else 1
    low, high = (f"{value:+.{digits}f}" for value in compared.ci95)
    return f"{compared.difference:+.{digits}f} [{low}, {high}]"


def twin_note(label: str, compared: Mapping[str, Comparison | None]) -> str:
    """What the twin is, and on how many tasks the difference is more than chance."""
    found = [one for one in compared.values() if one]
    above, below = sum(one.ci95[0] > 0 for one in found), sum(one.ci95[1] < 0 for one in found)
    return md_text(
        f"The twin is {label}. Differences are paired over test items (bootstrap, not corrected for the number of "
        f"tasks): the interval excludes 0 on {above + below} of {len(found)} tasks, above on {above}, below on {below}."
    )


def robustness_section(measured: Mapping[str, Any] | None) -> str:
    """Cosines and retrieval under changes of the sound."""
    if measured is None:
        return f"## Robustness\n\n{MISSING}"
    tables = (f"### {md_text(table.title)}\n\n{md_grid(table).strip()}" for table in robustness_tables(measured))
    return "\n\n".join(["## Robustness", *tables])


def recordings_section(measured: Mapping[str, Any] | None) -> str:
    """Triplets of real recordings, and which recordings they were."""
    if measured is None:
        return f"## Real recordings\n\n{MISSING}"
    recordings = measured["recordings"]
    heard = ", ".join(f"{md_text(one['name'])} (`{one['sha256'][:12]}`, {one['segments']})" for one in recordings)
    return "\n\n".join([
        "## Real recordings",
        "Of an anchor, another segment of its recording and a segment of another recording, is the first pair nearer? "
        f"{len(recordings)} recordings are too few for any claim.",
        md_grid(triplets_table(measured)).strip(),
        f"Recordings (SHA-256, segments): {heard}.",
    ])  # fmt: skip


def limits_section(evidence: Evidence) -> str:
    """What the numbers do not say."""
    config, training = read_json(evidence.folder / "config.json"), evidence.training
    with safe_open(evidence.folder / "model.safetensors", framework="np") as file:
        n_params = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    heard = f", and was trained on {training.hours:.1f} h of audio" if training else ""
    limits = [f"It has {n_params / 1e6:.1f} M parameters (the published models 94 M and 315 M){heard}."]
    if training and training.synthetic:
        synthetic = (
            "**It was trained on synthetic music only.** Nobody played or sang: a generator composed and rendered "
        )
        limits.insert(0, synthetic + "all of it, and real sounds are new to the model.")
    limits.append(
        f"Its context is {config['window_s']:g} s: `embed`, and with it robustness and triplets above, reads longer "
        "recordings window by window, and relates nothing further apart. The tasks above were heard as MARBLE hears "
        "them, in whole task windows at once (`--context window`)."
    )
    if evidence.run and evidence.run.synthetic:
        limits.append(
            "The scores are of a synthetic suite. It comes from the generator of `data=synth`, with other seeds, "
            "instruments and singers: the numbers compare models with each other, and not with published ones."
        )
    if evidence.triplets or evidence.robustness:
        limits.append("Robustness and triplets were measured on few recordings: other music may give other numbers.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def recordings_of(evidence: Evidence) -> str:
    """Names of all recordings that robustness and triplets were measured on."""
    measured = filter(None, (evidence.robustness, evidence.triplets))
    return ", ".join(sorted({md_text(one["name"]) for found in measured for one in found["recordings"]}))


def repeat_section(evidence: Evidence, sources: Sources) -> str:
    """The commands, in order."""
    name, training = evidence.folder.resolve().name, evidence.training
    lines = [*sources.commands, *(training_commands(training.folder.resolve(), evidence.folder) if training else ())]
    lines += chain.from_iterable(run_commands(run, run.label.partition(" #")[0]) for run in evidence.runs)
    for kind, measured in (("robustness", evidence.robustness), ("triplets", evidence.triplets)):
        if measured:
            lines.append(segments_command(kind, measured, [str(one["model"]["name"]) for one in measured["models"]]))
    lines.append(f"mert verify {name}")
    beside = "`recipe.yaml`, beside this card, is the whole recipe. " if training else ""
    audio = f"AUDIO are {recordings_of(evidence)}. " if evidence.robustness or evidence.triplets else ""
    return (
        "## How to repeat it\n\n```sh\n" + "\n".join(lines) + "\n```\n\n"
        f"{beside}{audio}`mert verify` checks the SHA-256 and the golden states."
    )
