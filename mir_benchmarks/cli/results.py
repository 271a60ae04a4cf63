"""The commands that read results: `mert bench report`, `validate` and `card`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Folders = Annotated[list[Path], typer.Argument(help="What `mert bench run -o` wrote; one folder for each model.")]
Format = Literal["md", "csv", "tex", "html"]


def report(
    folders: Folders,
    form: Annotated[Format, typer.Option("--format", "-f", help="html is one page that needs nothing else.")] = "md",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: print.", dir_okay=False)
    ] = None,
) -> None:
    """Tables and pictures of one model's results, or of several beside each other."""
    from mir_benchmarks.report.formats import report_text, write_report

    if out is None:
        typer.echo(report_text(folders, form), nl=False)
    else:
        typer.echo(str(write_report(folders, out, form)))


def validate(folder: Annotated[Path, typer.Argument(help="What `mert bench run -o` wrote.", file_okay=False)]) -> None:
    """Compute a folder of results again from what is stored beside them, and name what cannot be."""
    from mert.errors import OutputError
    from mir_benchmarks.report.validate import validated
    from mir_benchmarks.tasks.registry import TASKS

    paths = [path for name in TASKS if (path := folder / f"{name}.json").exists()]
    if not paths:
        raise OutputError(folder, "holds no results", "run `mert bench run -o` into it")
    for path in paths:
        n_metrics, n_items, unknown = validated(path)
        rest = f"; not computed again: {', '.join(unknown)}" if unknown else ""
        typer.echo(f"{path}: {n_metrics} metrics of {n_items} items agree with the outputs{rest}")


def card(
    model: Annotated[Path, typer.Argument(help="What `mert export` wrote, with its README.md.", file_okay=False)],
    run: Annotated[Path | None, typer.Option(help="The training run it came from.", file_okay=False)] = None,
    results: Annotated[
        Path | None, typer.Option(help="Its results: what `mert bench run -o` wrote.", file_okay=False)
    ] = None,
    beside: Annotated[list[Path] | None, typer.Option(help="Results of another model; repeatable.")] = None,
    twin: Annotated[
        Path | None, typer.Option(help="Results to compare with, item by item: the untrained twin.", file_okay=False)
    ] = None,
    robustness: Annotated[Path | None, typer.Option(help="JSON of `mert bench robustness`.", dir_okay=False)] = None,
    triplets: Annotated[Path | None, typer.Option(help="JSON of `mert bench triplets`.", dir_okay=False)] = None,
    hardware: Annotated[str | None, typer.Option(help='What it was trained on: "two cores of ...".')] = None,
    commands: Annotated[
        list[str] | None, typer.Option("--command", help="What was run before the training, for the card; repeatable.")
    ] = None,
) -> None:
    """Write the measured sections of a model's card; sections without an input say that they were not measured."""
    from mir_benchmarks.card import Inputs, write_card

    before = tuple(commands or ())
    inputs = Inputs(run, results, tuple(beside or ()), twin, robustness, triplets, hardware, before)
    typer.echo(str(write_card(model, inputs)))
