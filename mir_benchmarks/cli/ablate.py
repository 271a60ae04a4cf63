"""The command `mert bench ablate`: pretraining variants beside each other, and the table of their effects."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mert.errors import UsageError
from mir_benchmarks.cli.options import Suite

if TYPE_CHECKING:
    from mir_benchmarks.ablation import Ablation, Plan, Variant

NOTE = (
    "Points above or below the base, as means over the seeds of pretraining [95 % interval over test items] (each "
    "seed). Bold: the interval excludes 0 and all seeds agree; not corrected for the number of comparisons."
)


def ablate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for teachers, runs, models, results.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the recipe, for all: steps=300.")] = None,
    recipe: Annotated[Literal["mert-nano", "mert-nano-1"], typer.Option(help="What is varied.")] = "mert-nano",
    suite: Annotated[Suite | None, typer.Option(help="Data to probe on; default: that of the recipe.")] = None,
    seeds: Annotated[str, typer.Option(help="Of the pretraining.")] = "0,1",
    only: Annotated[str | None, typer.Option(help="Some variants, beside the base.")] = None,
) -> None:
    """Pretrain one variant for each factor of a recipe, probe all on four tasks, and compare. Resumable."""
    from mir_benchmarks.ablation import PLANS, Ablation

    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        raise UsageError("--seeds", f"{seeds} are no integers", "give some: --seeds 0,1") from None
    plan = PLANS[recipe]
    ablation = Ablation(out, replace(plan, suite=suite or plan.suite), numbers, tuple(overrides or ()))
    variants = variants_of(ablation.plan, only)
    ablation.run(variants, typer.echo)
    table = markdown_table(ablation, variants)
    (out / "ablation.md").write_text(table, encoding="utf-8")
    typer.echo(table)


def variants_of(plan: Plan, only: str | None) -> list[Variant]:
    """Variants by comma-separated names, after the base; UsageError for unknown names."""
    from mir_benchmarks.ablation import BASE

    known = {variant.name: variant for variant in plan.variants}
    names = set(known) if only is None else {BASE, *only.split(",")}
    if unknown := names - set(known):
        raise UsageError("--only", f"no variant {', '.join(sorted(unknown))}", f"give some of {', '.join(known)}")
    return [variant for name, variant in known.items() if name in names]


def markdown_table(ablation: Ablation, variants: list[Variant]) -> str:
    """Each variant's difference to the base with its 95 % interval, and below it the difference of each seed."""
    tasks = ablation.plan.tasks
    cells: dict[str, dict[str, str]] = {}
    for variant, compared, each in ablation.compared(variants):
        low, high = compared.ci95 or (-math.inf, math.inf)
        bold = "**" if (low > 0 and min(each) > 0) or (high < 0 and max(each) < 0) else ""
        seeds = ", ".join(f"{difference:+.1f}" for difference in each)
        cell = f"{bold}{compared.difference:+.1f}{bold} [{low:+.1f}, {high:+.1f}]<br>({seeds})"
        cells.setdefault(variant.title, {})[compared.task] = cell
    head = ["| variant | " + " | ".join(tasks) + " |", "|---" * (1 + len(tasks)) + "|"]
    body = [f"| {title} | " + " | ".join(row[task] for task in tasks) + " |" for title, row in cells.items()]
    return "\n".join([*head, *body, "", NOTE]) + "\n"
