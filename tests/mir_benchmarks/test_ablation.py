"""The ablation: one factor at a time, steps that are done are skipped, failures name their command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mert.errors import MertError, UsageError
from mir_benchmarks.ablation import BASE, FITTED, PLANS, PROBED, Ablation, Plan, Variant
from mir_benchmarks.cli.ablate import markdown_table, variants_of
from mir_benchmarks.statistics import summarise
from probes.results import Outputs, Result

TINY = ("steps=1", "warmup_steps=1", "batch_clips=2", "group_clips=2", "validate_clips=2", "model.dim=32",
        "model.n_heads=2", "model.n_layers=1", "model.ffn_dim=32", "model.conv_dim=128", "clip_s=0.5")  # fmt: skip


FIRST = PLANS["mert-nano-1"]
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def pretraining(ablation: Ablation, name: str) -> set[str]:
    (variant,) = (variant for variant in ablation.plan.variants if variant.name == name)
    return {word for _, words in ablation.commands([variant]) if words[0] == "pretrain" for word in words}


@each_plan
def test_every_variant_differs_from_the_base_in_one_factor(plan: Plan, tmp_path: Path) -> None:
    ablation = Ablation(tmp_path, plan, seeds=(0,), overrides=TINY)
    base = pretraining(ablation, BASE)
    for variant in plan.variants[1:]:
        changed = {word.partition("=")[0] for word in pretraining(ablation, variant.name) ^ base} - {"out"}
        assert changed - {"weights.teachers"} in ({"teachers"}, {"mixing.apply_prob"}), variant.name
    assert {words[3] for _, words in ablation.commands() if words[:2] == ["bench", "run"]} == {
        str(tmp_path / "models" / f"{variant.name}-0") for variant in plan.variants
    }


@each_plan
def test_a_teacher_is_fitted_once_for_all_who_learn_from_it(plan: Plan, tmp_path: Path) -> None:
    done = {done for done, words in Ablation(tmp_path, plan).commands() if words[0] == "fit-teacher"}
    fitted = {name for variant in plan.variants for name in variant.teachers if name.split()[0] in FITTED}
    assert len(done) == len(fitted) < len(plan.variants)


def test_the_targets_of_a_corpus_with_an_end_are_kept_once(tmp_path: Path) -> None:
    ablation = Ablation(tmp_path)
    stores = {words[-1] for _, words in ablation.commands() if words[0] == "tokenize"}
    assert len(stores) == 4  # all teachers but the transform
    assert stores | {"cqt"} == set(
        next(w for w in pretraining(ablation, BASE) if w.startswith("teachers="))[9:].split(",")
    )


def test_done_steps_are_skipped_and_a_failure_names_its_command(tmp_path: Path) -> None:
    variant = Variant("broken", "no such feature", ("kmeans features=none",))
    ablation, told = Ablation(tmp_path, FIRST, seeds=(0,), overrides=TINY), list[str]()
    with pytest.raises(MertError, match=r"mert fit-teacher: failed \(.*none"):
        ablation.run([variant], told.append)
    assert len(told) == 1 and told[0].startswith("mert fit-teacher kmeans synth")
    for done, _ in ablation.commands([variant]):
        done.parent.mkdir(parents=True, exist_ok=True)
        done.touch()
    ablation.run([variant], told.append)
    assert len(told) == 1


def write_result(folder: Path, task: str, right: float) -> None:
    """A result in which a share of 40 items is right."""
    targets = np.arange(40) % 2
    logits = np.eye(2)[np.where(np.arange(40) < 40 * right, targets, 1 - targets)]
    outputs = Outputs(np.arange(40).astype(str), targets, logits[None], ("a", "b"))
    metrics, score = summarise(outputs, ("accuracy",))
    facts = {"name": task, "version": "1", "data": "synthetic", "checksum": "0", "counts": {}}
    Result({"name": "m"}, facts, {}, {}, "layer01", 1e-3, [], metrics, score, []).save(folder, outputs)


def test_the_table_tells_what_helps(tmp_path: Path) -> None:
    """Over two seeds: 0.9 and 0.8 of the items right with everything, 0.4 in both without the transform."""
    for name, right in ((f"{BASE}-0", 0.9), (f"{BASE}-1", 0.8), ("no-cqt-0", 0.4), ("no-cqt-1", 0.4)):
        for task in PROBED:
            write_result(tmp_path / "results" / name, task, right)
    table = markdown_table(Ablation(tmp_path, FIRST), variants_of(FIRST, "no-cqt"))
    assert table.count("**-45.0** [") == table.count("(-50.0, -40.0)") == 4
    assert "| no constant-Q transform |" in table
    with pytest.raises(UsageError, match="no variant no-such"):
        variants_of(FIRST, "no-such")
