"""The command `mert bench ablate`: pretraining variants beside each other, and the table of what helps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mir_benchmarks.run_cli import Suite

if TYPE_CHECKING:
    from mir_benchmarks.ablation import Ablation, Variant


def ablate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for teachers, runs, models, results.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the recipe, for all: steps=300.")] = None,
    suite: Annotated[Suite, typer.Option(help="Synthetic data to probe on.")] = Suite.small,
    seeds: Annotated[str, typer.Option(help="Of the pretraining.")] = "0,1",
    only: Annotated[str | None, typer.Option(help="Some variants; the base is always among them.")] = None,
) -> None:
    """Pretrain one variant for each factor of the recipe, probe all on four tasks, and compare. Resumable."""
    from mir_benchmarks.ablation import Ablation

    ablation = Ablation(
        out, out / f"suite-{suite}", suite.value, tuple(int(seed) for seed in seeds.split(",")), tuple(overrides or ())
    )
    variants = chosen(only)
    ablation.run(variants, typer.echo)
    table = rows(ablation, variants)
    (out / "ablation.md").write_text(table, encoding="utf-8")
    typer.echo(table)


def chosen(only: str | None) -> list[Variant]:
    """The variants named, after the base; UsageError for names there are not."""
    from mert.errors import UsageError
    from mir_benchmarks.ablation import BASE, VARIANTS

    names = {variant.name for variant in VARIANTS} if only is None else {BASE, *only.split(",")}
    if unknown := names - {variant.name for variant in VARIANTS}:
        known = ", ".join(variant.name for variant in VARIANTS)
        raise UsageError("--only", f"no variant {', '.join(sorted(unknown))}", f"give some of {known}")
    return [variant for variant in VARIANTS if variant.name in names]


def rows(ablation: Ablation, variants: list[Variant]) -> str:
    """A markdown table: difference to the base of each variant, task and seed, with its 95 % interval."""
    from mir_benchmarks.ablation import TASKS

    cells: dict[tuple[str, int], dict[str, str]] = {}
    for variant, seed, compared in ablation.compared(variants):
        low, high = compared.ci95
        sure = "**" if low > 0 or high < 0 else ""
        cell = f"{sure}{compared.difference:+.1f}{sure} [{low:+.1f}, {high:+.1f}]"
        cells.setdefault((variant.name, seed), {})[compared.task] = cell
    says = {variant.name: variant.says for variant in variants}
    head = ["| variant | seed | " + " | ".join(TASKS) + " |", "|---" * (2 + len(TASKS)) + "|"]
    body = [f"| {says[name]} | {seed} | " + " | ".join(of[task] for task in TASKS) + " |"
            for (name, seed), of in cells.items()]  # fmt: skip
    return "\n".join([*head, *body]) + "\n"
