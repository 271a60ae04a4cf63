"""The command `mert bench ablate`: pretraining variants beside each other, and the table of their effects."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mert.errors import UsageError
from mir_benchmarks.cli.options import Suite

if TYPE_CHECKING:
    from mir_benchmarks.ablation import Ablation, Variant

NOTE = (
    "Points above or below the base, as means over the seeds of pretraining [95 % interval over test items] (each "
    "seed). Bold: the interval excludes 0 and all seeds agree; not corrected for the number of comparisons."
)


def ablate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for teachers, runs, models, results.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Of the recipe, for all: steps=300.")] = None,
    suite: Annotated[Suite, typer.Option(help="Synthetic data to probe on.")] = "small",
    seeds: Annotated[str, typer.Option(help="Of the pretraining.")] = "0,1",
    only: Annotated[str | None, typer.Option(help="Some variants, beside the base.")] = None,
) -> None:
    """Pretrain one variant for each factor of the recipe, probe all on four tasks, and compare. Resumable."""
    from mir_benchmarks.ablation import Ablation

    try:
        numbers = tuple(int(seed) for seed in seeds.split(","))
    except ValueError:
        raise UsageError("--seeds", f"{seeds} are no integers", "give some: --seeds 0,1") from None
    ablation = Ablation(out, out / f"suite-{suite}", suite, numbers, tuple(overrides or ()))
    variants = variants_of(only)
    ablation.run(variants, typer.echo)
    table = markdown_table(ablation, variants)
    (out / "ablation.md").write_text(table, encoding="utf-8")
    typer.echo(table)


def variants_of(only: str | None) -> list[Variant]:
    """Variants by comma-separated names, after the base; UsageError for unknown names."""
    from mir_benchmarks.ablation import BASE, VARIANTS

    known = {variant.name: variant for variant in VARIANTS}
    names = set(known) if only is None else {BASE, *only.split(",")}
    if unknown := names - set(known):
        raise UsageError("--only", f"no variant {', '.join(sorted(unknown))}", f"give some of {', '.join(known)}")
    return [variant for name, variant in known.items() if name in names]


def markdown_table(ablation: Ablation, variants: list[Variant]) -> str:
    """Each variant's difference to the base with its 95 % interval, and below it the difference of each seed."""
    from mir_benchmarks.ablation import PROBED

    cells: dict[str, dict[str, str]] = {}
    for variant, compared, each in ablation.compared(variants):
        low, high = compared.ci95 or (-math.inf, math.inf)
        bold = "**" if (low > 0 and min(each) > 0) or (high < 0 and max(each) < 0) else ""
        seeds = ", ".join(f"{difference:+.1f}" for difference in each)
        cell = f"{bold}{compared.difference:+.1f}{bold} [{low:+.1f}, {high:+.1f}]<br>({seeds})"
        cells.setdefault(variant.title, {})[compared.task] = cell
    head = ["| variant | " + " | ".join(PROBED) + " |", "|---" * (1 + len(PROBED)) + "|"]
    body = [f"| {title} | " + " | ".join(row[task] for task in PROBED) + " |" for title, row in cells.items()]
    return "\n".join([*head, *body, "", NOTE]) + "\n"
