"""The measured sections of a model card, each from the files of a measurement: training, results, robustness, limits.

What `mert.publish.model_card` wrote stays; everything below the mark is written anew each time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mert.errors import CheckpointError, UsageError
from mert.files import read_json, sha256_file, write_whole
from mir_benchmarks.card_commands import run_commands, segments_command, training_commands
from mir_benchmarks.card_training import Training, portable, read_recipe, training_section
from mir_benchmarks.items import TaskError
from mir_benchmarks.registry import TASKS
from mir_benchmarks.render import md_grid, md_text
from mir_benchmarks.robustness import robustness_tables
from mir_benchmarks.runs import Run, load_runs
from mir_benchmarks.segments import SCHEMA
from mir_benchmarks.stats import Comparison, Sample, compare
from mir_benchmarks.tables import scores_table, unit_of
from mir_benchmarks.triplets import triplets_table

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
