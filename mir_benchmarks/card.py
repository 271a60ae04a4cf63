"""The measured sections of a model card, each a function of the files that a measurement wrote."""

from __future__ import annotations

import json
import shlex
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, takewhile
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
from mir_benchmarks.report.formats import md_grid, md_text
from mir_benchmarks.report.runs import Run, load_runs
from mir_benchmarks.report.tables import Table, compared, difference_cell, scores_table
from mir_benchmarks.tasks.registry import TASKS
from probes.results import portable

MARK = "<!-- measured: what follows is written by `mert bench card` -->"
MISSING = "Not measured."
UNKNOWN, NO_COMMAND = "not on record", "the command was not recorded"
NAME_THE_RUN = "name the folder that `mert pretrain` wrote (out=)"
PATHS = ("out", "data", "teachers")  # entries of a recipe that may name folders


@dataclass(frozen=True)
class Inputs:
    """Files of the measurements; what is None is not measured. `commands` are those that came before the training."""

    run: Path | None = None
    results: Path | None = None
    beside: tuple[Path, ...] = ()
    twin: Path | None = None
    robustness: Path | None = None
    triplets: Path | None = None
    hardware: str | None = None
    commands: tuple[str, ...] = ()


def write_card(folder: Path, inputs: Inputs) -> Path:
    """Write the measured sections of `folder`/README.md, whose path is returned; the text above them is kept.

    The curves of the training run and its recipe, without folders of this machine, are copied beside it. Equal inputs
    give equal files.
    """
    import yaml

    path = folder / "README.md"
    if not path.is_file() or not (folder / "model.safetensors").is_file():
        raise CheckpointError(folder, "holds no model with a card", "give what `mert export` wrote")
    evidence = Evidence.read(folder, inputs)
    training = evidence.training
    written = path.read_text(encoding="utf-8").partition(MARK)[0].rstrip()
    sections = (
        with_index(written, evidence) if evidence.run else written,
        MARK,
        training_section(training, md_text(inputs.hardware) if inputs.hardware else UNKNOWN),
        results_section(evidence),
        robustness_section(evidence.robustness),
        recordings_section(evidence.triplets),
        limits_section(evidence),
        repeat_section(evidence, inputs.commands),
    )
    if training:
        curves = training.folder / "curves.png"
        if curves.exists() and training.folder.resolve() != folder.resolve():
            with write_whole(folder / "curves.png") as temporary:
                shutil.copyfile(curves, temporary)
        with write_whole(folder / "recipe.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(without_folders(training.recipe), sort_keys=False), encoding="utf-8")
    with write_whole(path) as temporary:
        temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8", newline="\n")
    return path


def with_index(text: str, evidence: Evidence) -> str:
    """The text with a `model-index` in its front matter, where the hub looks for results; an old one is replaced.

    It holds the mean of each metric of each task, in points, and says whether the data are synthetic.
    """
    import yaml

    front, closed, rest = text.removeprefix("---\n").partition("\n---\n")
    if not (text.startswith("---\n") and closed):
        return text
    kept = front.partition("\nmodel-index:")[0]
    run = evidence.run
    assert run is not None
    results = [
        {
            "task": {"type": "audio-classification", "name": TASKS[name].title},
            "dataset": {"name": f"{name}, {'a synthetic suite' if run.synthetic else 'real data'}", "type": name},
            "metrics": [
                {"type": metric, "name": metric, "value": round(float(values["mean"]), 2)}
                for metric, values in sorted(result.metrics.items())
            ],
        }
        for name, result in run.results.items()
    ]
    index = yaml.safe_dump({"model-index": [{"name": run.label, "results": results}]}, sort_keys=False)
    return f"---\n{kept}\n{index.rstrip()}\n---\n{rest}"


@dataclass(frozen=True)
class Evidence:
    """The measurements of one model, checked to be of its weights; the model is called by the name of its folder.

    `runs` are the results of the model, then those beside it and of the twin; runs of the same name are numbered.
    """

    folder: Path
    training: Training | None
    run: Run | None
    twin: Run | None
    runs: list[Run]
    robustness: dict[str, Any] | None
    triplets: dict[str, Any] | None

    @classmethod
    def read(cls, folder: Path, inputs: Inputs) -> Evidence:
        """Read all inputs; TaskError or UsageError for a file of other weights or of another kind."""
        sha256, name = sha256_file(folder / "model.safetensors"), folder.resolve().name
        training = None if inputs.run is None else Training.read(inputs.run)
        recipe = folder / "recipe.yaml"
        if training and recipe.exists() and without_folders(read_recipe(recipe)) != without_folders(training.recipe):
            raise UsageError(training.folder, f"has another recipe than {name}", "give the run that it came from")
        runs: list[Run] = []
        for path in filter(None, (inputs.results, *inputs.beside, inputs.twin)):
            run = load_runs([path])[0]
            if path == inputs.results:
                if any(result.model.get("sha256") != sha256 for result in run.results.values()):
                    raise TaskError(path, f"holds results of other weights than {name}'s", "run it again")
                run = replace(run, label=name)
            n_same = sum(earlier.label.partition(" #")[0] == run.label for earlier in runs)
            runs.append(replace(run, label=f"{run.label} #{n_same + 1}") if n_same else run)
        paths = {"robustness": inputs.robustness, "triplets": inputs.triplets}
        measured = {kind: read_measured(path, kind, sha256, name) if path else None for kind, path in paths.items()}
        own, twin = runs[0] if inputs.results else None, runs[-1] if inputs.twin else None
        return cls(folder, training, own, twin, runs, **measured)


def read_measured(path: Path, kind: str, sha256: str, name: str) -> dict[str, Any]:
    """A JSON of `mert bench robustness` or `triplets` that includes these weights, which it then calls `name`."""
    measured = read_json(path)
    if (measured.get("format"), measured.get("schema")) != (f"mert-{kind}", SCHEMA):
        raise UsageError(path, f"is not of `mert bench {kind}`, schema {SCHEMA}", "measure it again")
    models = [model["model"] for model in measured["models"] if model["model"].get("sha256") == sha256]
    if not models:
        raise TaskError(path, f"holds nothing of {name}'s weights", f"run `mert bench {kind}` on them")
    for model in models:
        model["name"] = name
    return measured


@dataclass(frozen=True)
class Training:
    """A training run: its recipe, its metrics up to the newest checkpoint, and the state of that checkpoint."""

    folder: Path
    recipe: dict[str, Any]
    rows: list[dict[str, Any]]
    state: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Training:
        """UsageError for a folder that is no run."""
        recipe, rows = read_recipe(folder / "recipe.yaml"), read_rows(folder / "metrics.jsonl")
        if not rows:
            raise UsageError(folder, "holds no metrics of a training run", NAME_THE_RUN)
        markers = sorted((folder / "ckpt").glob("step_*/COMPLETE.json"))
        newest = read_json(markers[-1]) if markers else {"step": rows[-1]["step"], "state": {}}
        return cls(folder, recipe, [row for row in rows if row["step"] <= newest["step"]], newest["state"])

    @property
    def hours(self) -> float:
        """Hours of audio in all batches; a clip counts as often as it was drawn."""
        return float(self.rows[-1]["step"] * self.recipe["batch_clips"] * self.recipe["clip_s"] / 3600)

    @property
    def synthetic(self) -> bool:
        """Whether the music is that of the built-in generator, made on the fly or by `mert bench synth`."""
        return bool(self.recipe["data"] == "synth" or Path(self.recipe["data"], "scores.jsonl").exists())


def read_recipe(path: Path) -> dict[str, Any]:
    """The entries of a recipe.yaml, as they are; UsageError where there is none."""
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(path, f"cannot be read ({error})", NAME_THE_RUN) from None
    if not isinstance(recipe, dict) or not {"data", "teachers", "batch_clips", "clip_s"} <= set(recipe):
        raise UsageError(path, "is no recipe", NAME_THE_RUN)
    return recipe


def without_folders(value: Any, is_path: bool = False) -> Any:
    """A recipe in which folders have their last names only, so that it says nothing of this machine.

    >>> without_folders({"out": "/a/run", "data": "hf:org/music", "teachers": ["/b/mel_rvq", "cqt"], "steps": 5})
    {'out': 'run', 'data': 'hf:org/music', 'teachers': ['mel_rvq', 'cqt'], 'steps': 5}
    """
    if isinstance(value, dict):
        return {key: without_folders(nested, is_path or key in PATHS) for key, nested in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(nested, is_path) for nested in value]
    if isinstance(value, str):
        return PurePath(value).name if is_path and not value.startswith("hf:") else portable(value)
    return value


def training_section(training: Training | None, hardware: str) -> str:
    """Facts of the run, losses and accuracies on held-out music, and its curves."""
    if training is None:
        return f"## Training\n\nNot measured: no run was given. Hardware: {hardware}."
    facts = Table("", ("", ""), [*_facts(training), ("hardware", hardware)], text=frozenset({""}))
    parts = ["## Training", md_grid(facts).strip(), *_held_out(training)]
    if (training.folder / "curves.png").exists():
        parts.append("![loss, held-out accuracy and error, gradient norm by step](curves.png)")
    return "\n\n".join(parts)


def _facts(training: Training) -> list[tuple[str, str]]:
    recipe: defaultdict[str, Any] = defaultdict(lambda: UNKNOWN, without_folders(training.recipe))
    options = "".join(f", {key} {value}" for key, value in (recipe.get("data_options") or {}).items())
    source = recipe["data"] + ", the built-in generator's music: all of it synthetic" * training.synthetic
    seconds = [row["seconds"] for row in training.rows if "seconds" in row]
    took = f"{sum(seconds) / 3600:.2f} h in steps, median {np.median(seconds):.2f} s a step" if seconds else UNKNOWN
    steps, skipped = training.rows[-1]["step"], sum("skipped" in row for row in training.rows)
    return [
        ("data", f"{source}{options}; corpus {str(training.state.get('corpus', UNKNOWN))[:12]}"),
        *_base(training),
        *_teachers(training),
        ("steps", f"{steps:,} of {recipe['steps']:,}" + f", {skipped} of them skipped" * bool(skipped)),
        ("batch", f"{recipe['batch_clips']} clips of {recipe['clip_s']:g} s in groups of {recipe['group_clips']}"),
        ("audio heard", f"{training.hours:.1f} h"),
        ("masking", f"probability {recipe['mask_probability']}, spans of {recipe['mask_length']} frames"),
        ("mixing", _pairs(recipe.get("mixing") or {})),
        ("weights of the losses", _pairs(recipe.get("weights") or {})),
        ("optimiser", f"AdamW, betas {recipe['betas']}, eps {recipe['eps']}, weight decay {recipe['weight_decay']}, "
                      f"gradients clipped at {recipe['clip_norm']}"),
        ("learning rate", f"{recipe['lr']} after {recipe['warmup_steps']} steps of warm-up, then linear to 0"),
        ("informed starts", f"filterbank {recipe['filterbank_start']}, codebooks {recipe['codebook_start']}"),
        ("seed, precision", f"{recipe['seed']}, {recipe['dtype']}"),
        ("time", took),
    ]  # fmt: skip


def _base(training: Training) -> list[tuple[str, str]]:
    """The row of the weights that the run went on from, if there are any."""
    base = training.state.get("base")
    return [("on from", f"{base['name']}, {base['licence']}, sha256 {base['sha256'][:12]}")] if base else []


def _teachers(training: Training) -> list[tuple[str, str]]:
    """One row per teacher: the facts of its folder, or else those in the state of the checkpoint."""
    fingerprints, licences = (training.state.get(key, {}) for key in ("teachers", "licences"))
    rows = []
    for teacher in training.recipe["teachers"]:
        name = PurePath(teacher).name
        facts = read_json(Path(teacher, "teacher.json")) if Path(teacher, "teacher.json").exists() else {}
        kind = facts.get("name", name)
        try:
            with safe_open(Path(teacher, "teacher.safetensors"), framework="np") as file:
                n_codebooks, n_classes, _ = file.get_slice("codebooks").get_shape()
            codebooks = f"{n_codebooks} codebooks of {n_classes} classes"
        except (OSError, SafetensorError, ValueError):  # a teacher that is not fitted, or has none
            codebooks = ""
        cells = [codebooks, _pairs(facts.get("settings", {})), facts.get("licence") or licences.get(kind)]
        fingerprint = str(facts.get("fingerprint") or fingerprints.get(kind) or UNKNOWN)[:12]
        rows.append(("teacher", "; ".join([kind, *filter(None, cells), f"fingerprint {fingerprint}"])))
    return rows


def _pairs(values: Mapping[str, Any]) -> str:
    """Settings on one line, nested ones flat.

    >>> _pairs({"mel": {"hop": 320, "n_fft": 2048}})
    'hop 320, n_fft 2048'
    """
    return ", ".join(
        _pairs(value) if isinstance(value, dict) else f"{k} {json.dumps(value)}" for k, value in values.items()
    )


def _held_out(training: Training) -> list[str]:
    """Loss, accuracies and errors at masked frames of held-out music, at the last validation."""
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
    """Accuracy of each codebook beside the share of its most frequent code, the accuracy of a constant guess."""
    n_codebooks = sum(1 for _ in takewhile(lambda k: f"{stem}/accuracy_{k}" in row, count()))

    rows: list[tuple[str, ...]] = []
    for title, what, scale, digits in (
        ("accuracy, %", "accuracy", 100, 2),
        ("share of the most frequent code, %", "most_frequent", 100, 2),
        ("perplexity of the codes", "perplexity", 1, 0),
    ):
        values = [row.get(f"{stem}/{what}_{k}") for k in range(n_codebooks)]
        rows.append((title, *(UNKNOWN if value is None else f"{scale * value:.{digits}f}" for value in values)))
    return Table("", ("codebook", *(str(k + 1) for k in range(n_codebooks))), rows)


def results_section(evidence: Evidence) -> str:
    """Scores of all tasks beside those of other models, and the difference to the twin."""
    run, twin = evidence.run, evidence.twin
    if run is None:
        return f"## Results\n\n{MISSING}"
    title = "Results on the synthetic suite" if run.synthetic else "Results"
    scores = scores_table(evidence.runs)
    pairs, refused = compared([run, twin] if twin else [])
    differences = {TASKS[name].title: "not comparable" for names in refused.values() for name in names}
    differences |= {TASKS[pair.task].title: difference_cell(pair, run.results[pair.task]) for pair in pairs}
    layers = {TASKS[name].title: result.layer for name, result in run.results.items()}
    rows = [(*row, layers.get(row[0], ""), *([differences.get(row[0], "")] if twin else [])) for row in scores.rows]
    columns = (*scores.columns, f"layer of {run.label}", *(("minus the twin [95 % CI]",) if twin else ()))
    table = replace(scores, columns=columns, rows=rows, text=scores.text | {columns[len(scores.columns)]})
    parts = [f"## {title}", md_grid(table).strip()]
    if missing := [TASKS[name].title for name in TASKS if name not in run.results]:
        parts.append(f"Not measured on this model: {', '.join(missing)}.")
    if twin:
        intervals = [pair.ci95 for pair in pairs if pair.ci95]
        above, below = sum(low > 0 for low, _ in intervals), sum(high < 0 for _, high in intervals)
        parts.append(md_text(
            f"The twin is {twin.label}. Differences are paired over test items (t test, not corrected for the "
            f"number of tasks): the interval excludes 0 on {above + below} of {len(pairs)} tasks, above on {above}, "
            f"below on {below}."
        ))  # fmt: skip
    return "\n\n".join(parts)


def robustness_section(measured: Mapping[str, Any] | None) -> str:
    """Cosines and retrieval under changes of the sound."""
    if measured is None:
        return f"## Robustness\n\n{MISSING}"
    tables = (f"### {md_text(table.title)}\n\n{md_grid(table).strip()}" for table in robustness_tables(measured))
    return "\n\n".join(["## Robustness", *tables])


def recordings_section(measured: Mapping[str, Any] | None) -> str:
    """Triplets of real recordings, with the list of the recordings."""
    if measured is None:
        return f"## Real recordings\n\n{MISSING}"
    recordings = measured["recordings"]
    names = ", ".join(f"{md_text(file['name'])} (`{file['sha256'][:12]}`, {file['segments']})" for file in recordings)
    return "\n\n".join([
        "## Real recordings",
        "Of an anchor, another segment of its recording and a segment of another recording, is the first pair nearer? "
        f"{len(recordings)} recordings are too few for any claim.",
        md_grid(triplets_table(measured)).strip(),
        f"Recordings (SHA-256, segments): {names}.",
    ])  # fmt: skip


def limits_section(evidence: Evidence) -> str:
    """The limits of the model and of its measurements."""
    config, training = read_json(evidence.folder / "config.json"), evidence.training
    with safe_open(evidence.folder / "model.safetensors", framework="np") as file:
        n_params = sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    hours = f", and was trained on {training.hours:.1f} h of audio" if training else ""
    limits = [
        f"It has {n_params / 1e6:.1f} M parameters (the published models 94 M and 315 M){hours}.",
        f"Its context is {config['window_s']:g} s: `embed`, and with it robustness and triplets above, reads longer "
        "recordings window by window, and relates nothing further apart. The tasks above were embedded as in "
        "MARBLE, in whole task windows at once (`--context window`).",
    ]
    if training and training.synthetic:
        limits.insert(
            0,
            "**It was trained on synthetic music only.** Nobody played or sang: a generator composed and rendered "
            "all of it, and real sounds are new to the model.",
        )
    if evidence.run and evidence.run.synthetic:
        limits.append(
            "The scores are of a synthetic suite. It comes from the generator of `data=synth`, with other seeds, "
            "instruments and singers: the numbers compare models with each other, and not with published ones."
        )
    if evidence.triplets or evidence.robustness:
        limits.append("Robustness and triplets were measured on few recordings: other music may give other numbers.")
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def repeat_section(evidence: Evidence, before: Sequence[str]) -> str:
    """The commands in order: those before the training, training, measurements, check."""
    name, training = evidence.folder.resolve().name, evidence.training
    lines = [*before, *(training_commands(training.folder.resolve(), evidence.folder) if training else ())]
    for run in evidence.runs:
        lines += run_commands(run, run.label.partition(" #")[0])
    measured = [measurement for measurement in (evidence.robustness, evidence.triplets) if measurement]
    for measurement in measured:
        names = [str(model["model"]["name"]) for model in measurement["models"]]
        kind = measurement["format"].removeprefix("mert-")
        lines.append(command_line(measurement.get("command", ()), names) or f"# mert bench {kind}: {NO_COMMAND}")
    lines.append(f"mert verify {name}")
    recordings = sorted({md_text(file["name"]) for measurement in measured for file in measurement["recordings"]})
    remarks = [
        *(["`recipe.yaml`, beside this card, is the whole recipe."] if training else ()),
        *([f"Robustness and triplets are of {', '.join(recordings)}."] if recordings else ()),
        "`mert verify` checks the SHA-256 and the golden states.",
    ]
    return "\n".join(["## How to repeat it\n\n```sh", *lines, "```\n", " ".join(remarks)])


def training_commands(run: Path, model: Path) -> Iterator[str]:
    """From the recipe beside the card to the exported model."""
    yield shlex.join(["mert", "pretrain", "recipe.yaml", f"out={run.name}"])
    with safe_open(model / "model.safetensors", framework="np") as file:
        is_half = any(file.get_slice(name).get_dtype() == "F16" for name in file.keys())  # noqa: SIM118
    yield shlex.join(["mert", "export", run.name, model.name, *["--half"] * is_half])


def run_commands(run: Run, name: str) -> Iterator[str]:
    """The commands recorded in the results of a model, each once; a comment for results that recorded none."""
    lines = {task: command_line(result.command, [name]) for task, result in run.results.items()}
    yield from dict.fromkeys(filter(None, lines.values()))
    if unrecorded := [task for task, line in lines.items() if not line]:
        yield f"# mert bench run -m {name} -t {','.join(unrecorded)}: {NO_COMMAND}"


def command_line(command: Sequence[str], models: Sequence[str]) -> str:
    """A recorded command in which the models after -m have the names that the card uses; empty without one.

    >>> command_line(["mert", "bench", "run", "-m", "nano v2", "-t", "all"], ["our-model"])
    'mert bench run -m our-model -t all'
    """
    words, names = list(command), iter(models)
    for i in range(1, len(words)):
        if words[i - 1] == "-m":
            words[i] = next(names, words[i])
    return shlex.join(words)
