"""The measured sections of a model card: what the files say, nothing else, and nothing of this machine."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from harness.made_results import made_measured, made_training, save_run
from harness.sounds import tiny_embedder
from typer.testing import CliRunner

import mert
from mert.errors import CheckpointError, UsageError
from mert.files import read_json, sha256_file, write_json
from mir_benchmarks.card import MARK, Inputs, write_card
from mir_benchmarks.cli.bench import app
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.report.runs import load_runs
from mir_benchmarks.statistics import Sample, compare
from mir_benchmarks.tasks.registry import TASKS, TaskSpec
from probes.results import Result

SOME = ("gtzan_genre", "emomusic", "mtt")
INTERVAL = re.compile(r"[-+]?\d+\.\d+ \[[-+]?\d+\.\d+, [-+]?\d+\.\d+\]")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    mert.save_pretrained(tiny_embedder(), tmp_path / "our-model")
    return tmp_path / "our-model"


@pytest.fixture
def inputs(model: Path, tmp_path: Path) -> Inputs:
    """All there can be: results of the model, two baselines (one without a task) and a twin."""
    sha256 = sha256_file(model / "model.safetensors")
    save_run(tmp_path / "own", "its-old-name", 0.8, SOME, data="synthetic")
    for path in (tmp_path / "own").glob("*.json"):
        values = read_json(path)
        write_json(path, values | {"model": values["model"] | {"sha256": sha256}})
    save_run(tmp_path / "mel", "log-mel", 0.5, SOME, data="synthetic")
    save_run(tmp_path / "mfcc", "mfcc", 0.6, SOME[:2], data="synthetic")
    save_run(tmp_path / "twin", "random", 0.2, SOME, data="synthetic")
    for kind in ("robustness", "triplets"):
        write_json(tmp_path / f"{kind}.json", made_measured(kind, sha256, len(kind)))
    return Inputs(
        made_training(tmp_path), tmp_path / "own", (tmp_path / "mel", tmp_path / "mfcc"), tmp_path / "twin",
        tmp_path / "robustness.json", tmp_path / "triplets.json", "a loom of 3 cores", ("mert fit-teacher mel_rvq x",),
    )  # fmt: skip


def plain(card: str) -> str:
    return re.sub(r"\\(.)", r"\1", card)


def section(card: str, title: str) -> str:
    return re.split(r"^## ", card.partition(f"\n## {title}\n")[2], flags=re.MULTILINE)[0]


def said(summary: dict, digits: int) -> str:
    low, high = summary["ci95"]
    return f"{summary['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def measured_intervals(inputs: Inputs) -> dict[str, set[str]]:
    """Every interval there is in the files, by section, in the words of the card."""
    assert inputs.results and inputs.twin and inputs.robustness and inputs.triplets
    runs = load_runs([inputs.results, *inputs.beside, inputs.twin])
    scores = {said(result.score, 1) for run in runs for result in run.results.values()}
    for task in SOME:
        mine, twin = (Sample.of(run.results[task], run.outputs[task]) for run in (runs[0], runs[-1]))
        one = compare(mine, twin)
        scores.add(f"{one.difference:+.1f} [{one.ci95[0]:+.1f}, {one.ci95[1]:+.1f}]")
    models = json.loads(inputs.robustness.read_text())["models"]
    shown = [layers[one["layer"]] for one in models for layers in one["changes"].values()]
    moved = {said(of["cosine"], 3) for of in shown} | {said(of["retrieval"], 1) for of in shown}
    models = json.loads(inputs.triplets.read_text())["models"]
    near = {said(one["layers"][one["layer"]], 1) for one in models}
    return {"Results on the synthetic suite": scores, "Robustness": moved, "Real recordings": near}


def test_the_card_holds_the_intervals_of_the_files_and_no_others(model: Path, inputs: Inputs) -> None:
    card = plain(write_card(model, inputs).read_text())
    wanted = measured_intervals(inputs)
    for title, intervals in wanted.items():
        assert set(INTERVAL.findall(section(card, title))) == intervals, title
    assert set(INTERVAL.findall(card)) == set().union(*wanted.values())
    assert "its-old-name" not in card  # the model goes by the name of its folder
    assert "| our-model |" in card and "our-model, layer01" in card


def test_the_front_matter_holds_an_index_of_the_results(model: Path, inputs: Inputs) -> None:
    write_card(model, inputs)
    card = write_card(model, inputs).read_text(encoding="utf-8")  # the second one replaces the first
    front = yaml.safe_load(card.split("---\n")[1])
    (index,) = front["model-index"]
    assert index["name"] == "our-model" and front["library_name"] == "mert-hub"
    found = {row["dataset"]["type"]: {metric["type"]: metric["value"] for metric in row["metrics"]}
             for row in index["results"]}  # fmt: skip
    own = load_runs([inputs.results])[0].results
    assert found == {name: {metric: round(float(values["mean"]), 2) for metric, values in result.metrics.items()}
                     for name, result in own.items()}  # fmt: skip
    assert all("synthetic" in row["dataset"]["name"] for row in index["results"])


def test_what_was_written_before_stays(model: Path, inputs: Inputs) -> None:
    before = (model / "README.md").read_text()
    card = re.sub(r"\nmodel-index:\n(?:(?:  |- ).*\n)+", "\n", write_card(model, inputs).read_text())
    assert card.startswith(before.rstrip() + "\n\n" + MARK)
    assert mert.verify(model).golden is not None
    assert mert.load(model).info.licence == tiny_embedder().info.licence.lower()


def test_twice_equals_once_and_new_numbers_replace_old_ones(model: Path, inputs: Inputs) -> None:
    once = write_card(model, inputs).read_text()
    assert write_card(model, inputs).read_text() == once
    bare = write_card(model, Inputs()).read_text()
    assert "Not measured" in bare and "loom" not in bare and bare.count(MARK) == 1
    assert write_card(model, inputs).read_text() == once


def test_training_is_told_by_recipe_metrics_and_checkpoint(model: Path, inputs: Inputs) -> None:
    text = plain(section(write_card(model, inputs).read_text(), "Training"))
    for words in (
        "synth, the built-in generator's music: all of it synthetic, seconds 1.5; corpus c0c0c0c0c0c0",
        "| teacher | mel_rvq; 2 codebooks of 77 classes; hop 321; MIT; fingerprint fefefefefefe |",
        "| teacher | cqt; Apache-2.0; fingerprint abababababab |",
        "| steps | 8 of 9 |",  # the ninth row is beyond the newest checkpoint
        "48 clips of 7.5 s in groups of 16", "| audio heard | 0.8 h |", "a loom of 3 cores",
        "probability 0.65, spans of 6 frames", "apply_prob 0.45", "codes 1.25",
        "AdamW, betas [0.91, 0.97], eps 1e-07, weight decay 0.02, gradients clipped at 2.5",
        "0.00123 after 3 steps", "4321, bfloat16", "0.20 h in steps, median 90.00 s a step",
        "34 held-out clips at step 8: loss 6.789", "| accuracy, % | 23.45 | 6.78 |",
        "| share of the most frequent code, % | 1.23 | 2.34 |", "| perplexity of the codes | 56 | 65 |",
        "Squared error of `cqt`: 0.876", "(curves.png)",
    ):  # fmt: skip
        assert words in text, words
    assert (model / "curves.png").read_bytes() == b"a picture"


def test_results_say_layers_what_is_missing_and_where_the_twin_is_beaten(model: Path, inputs: Inputs) -> None:
    text = plain(section(write_card(model, inputs).read_text(), "Results on the synthetic suite"))
    assert inputs.results
    for task in SOME:
        (row,) = (line for line in text.splitlines() if line.startswith(f"| {TASKS[task].title} |"))
        layer = Result.load(inputs.results / f"{task}.json").layer
        assert f"| {layer} |" in row and row.count("*") >= 3  # marked synthetic
    assert "Not measured on this model: GiantSteps key" in text and "not comparable with published" in text
    assert "The twin is random." in text and "excludes 0 on 3 of 3 tasks, above on 3, below on 0" in text
    assert "mean of the tasks present" not in text  # mfcc lacks one: it would be of other tasks


def test_limits_are_of_this_model(model: Path, inputs: Inputs, tmp_path: Path) -> None:
    text = section(write_card(model, inputs).read_text(), "Limits")
    assert (
        "synthetic music only" in text and "context is 1 s" in text and "0.8 h" in text and "not with published" in text
    )
    (tmp_path / "other").mkdir()
    real = made_training(tmp_path / "other", data=str(tmp_path / "records"))
    (model / "recipe.yaml").unlink()
    text = section(write_card(model, Inputs(real)).read_text(), "Limits")
    assert "synthetic" not in text and "context is 1 s" in text
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "scores.jsonl").touch()  # as `mert bench synth` leaves it
    assert "synthetic music only" in section(write_card(model, Inputs(real)).read_text(), "Limits")


def test_nothing_of_this_machine_is_shipped(model: Path, inputs: Inputs, tmp_path: Path) -> None:
    write_card(model, inputs)
    for path in (model / "README.md", model / "recipe.yaml"):
        assert str(tmp_path) not in path.read_text()
    assert inputs.run
    shipped, own = (yaml.safe_load((folder / "recipe.yaml").read_text()) for folder in (model, inputs.run))
    assert (shipped["out"], shipped["data"], shipped["teachers"]) == ("run", "synth", ["mel_rvq", "cqt"])
    kept = set(own) - {"out", "teachers"}
    assert {key: shipped[key] for key in kept} == {key: own[key] for key in kept}


def test_tables_render(model: Path, inputs: Inputs) -> None:
    lines = write_card(model, replace(inputs, hardware="pipes | and *stars*")).read_text().splitlines()
    blocks = "\n".join(line if line.startswith("|") else "" for line in lines).strip("\n").split("\n\n")
    tables = [block.strip().splitlines() for block in blocks if block.strip()]
    assert len(tables) == 7
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
        assert len(widths) == 1, table
        assert set(table[1]) <= set("|:- "), table


@pytest.mark.parametrize("missing", ["run", "results", "robustness", "triplets"])
def test_what_is_missing_is_said(missing: str, model: Path, inputs: Inputs) -> None:
    titles = {"run": "Training", "results": "Results", "robustness": "Robustness", "triplets": "Real recordings"}
    card = write_card(model, replace(inputs, **{missing: None})).read_text()
    assert section(card, titles[missing]).strip().startswith("Not measured")
    assert card.count("Not measured") == (1 if missing == "results" else 2)  # tasks without results are named, too


def test_files_of_other_weights_are_refused(model: Path, inputs: Inputs, tmp_path: Path) -> None:
    before = (model / "README.md").read_text()
    save_run(tmp_path / "others", "our-model", 0.9, SOME[:1])
    with pytest.raises(TaskError, match="other weights"):
        write_card(model, replace(inputs, results=tmp_path / "others"))
    for kind in ("robustness", "triplets"):
        write_json(tmp_path / "others.json", made_measured(kind, "d" * 64))
        with pytest.raises(TaskError, match="nothing of our-model's weights"):
            write_card(model, replace(inputs, **{kind: tmp_path / "others.json"}))
    with pytest.raises(UsageError, match="not of `mert bench triplets`"):
        write_card(model, replace(inputs, triplets=inputs.robustness))
    assert (model / "README.md").read_text() == before
    write_card(model, inputs)
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="another recipe"):
        write_card(model, replace(inputs, run=made_training(tmp_path / "other", seed=5)))
    with pytest.raises(CheckpointError, match="no model with a card"):
        write_card(tmp_path, inputs)


def test_commands_are_those_that_made_the_results(model: Path, inputs: Inputs) -> None:
    card = write_card(model, inputs).read_text()
    lines = card.rpartition("```sh\n")[2].partition("\n```")[0].splitlines()
    assert lines[:3] == ["mert fit-teacher mel_rvq x", "mert pretrain recipe.yaml out=run", "mert export run our-model"]
    assert lines[-3:] == [
        "mert bench robustness -m our-model -m log-mel AUDIO -o robustness.json",
        "mert bench triplets -m our-model -m log-mel AUDIO -o triplets.json",
        "mert verify our-model",
    ]
    benches = [shlex.split(line) for line in lines if line.startswith("mert bench run")]
    assert [words[words.index("-m") + 1] for words in benches] == ["our-model", "log-mel", "mfcc", "random"]
    assert {words[words.index("-t") + 1] for words in benches} == {"mtt,gtzan_genre,emomusic", "gtzan_genre,emomusic"}


def test_a_run_records_its_command_with_the_options_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[list[str]] = []

    def run_task(task: TaskSpec, *values: object, command: list[str], **others: object) -> Path:
        recorded.append(command)
        return save_run(tmp_path / "done", "m", 0.5, (task.name,)) / f"{task.name}.json"

    monkeypatch.setattr("mir_benchmarks.tasks.run.run_task", run_task)
    home, out = tmp_path / "data", tmp_path / "results"
    (home / "gtzan").mkdir(parents=True)
    words = ["run", "--model", "log-mel", "-t", "gtzan_beats", "--data-home", home, "-o", out, "--lrs", "0.001,0.005"]
    words += ["--limit", 20, "--raw", "--set", "beat_tol=0.02", "--set", "beat_post=peak", "--context", "training"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert shlex.join(recorded[0]) == (
        "mert bench run -m log-mel -o results -t gtzan_beats --data-home data --lrs 0.001,0.005 --set beat_tol=0.02 "
        "--set beat_post=peak --limit 20 --context training --raw"
    )


def test_commands_are_written_once_and_their_absence_is_said(model: Path, inputs: Inputs, tmp_path: Path) -> None:
    """Files of schema 1 hold no command: the rest of the card is the same."""
    assert inputs.results and inputs.triplets
    before = write_card(model, inputs).read_text()
    for path in (inputs.results / "mtt.json", inputs.triplets):
        values = read_json(path)
        del values["command"]
        write_json(path, values | {"schema": 1})
    lines = write_card(model, inputs).read_text().splitlines()
    assert "# mert bench run -m our-model -t mtt: the command was not recorded" in lines
    assert "# mert bench triplets: the command was not recorded" in lines
    assert "mert bench run -m our-model -t mtt,gtzan_genre,emomusic -o m" in lines  # of the other tasks
    assert {line for line in before.splitlines() if not line.startswith("mert bench triplets")} <= set(lines)
    assert Result.load(inputs.results / "mtt.json").command == []


def test_the_command(model: Path, inputs: Inputs) -> None:
    words = ["card", model, "--run", inputs.run, "--results", inputs.results, "--twin", inputs.twin]
    words += ["--beside", inputs.beside[0], "--beside", inputs.beside[1], "--robustness", inputs.robustness]
    words += ["--triplets", inputs.triplets, "--hardware", inputs.hardware, "--command", *inputs.commands]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0 and done.output.strip() == str(model / "README.md"), done.output
    by_command = (model / "README.md").read_text()
    assert by_command == write_card(model, inputs).read_text()
