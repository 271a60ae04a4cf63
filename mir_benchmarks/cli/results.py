"""The commands that read results: `mert bench report`, `validate` and `card`."""

from pathlib import Path
from typing import Annotated, Any, Literal

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
    from mir_benchmarks.report.text import report_text, write_report

    if out is None:
        typer.echo(report_text(folders, form), nl=False)
    else:
        typer.echo(str(write_report(folders, out, form)))


def validate(folder: Annotated[Path, typer.Argument(help="What `mert bench run -o` wrote.", file_okay=False)]) -> None:
    """Compute every number of a folder of results again from the outputs beside it."""
    from mert.errors import OutputError
    from mir_benchmarks.statistics import summarise
    from mir_benchmarks.tasks.registry import TASKS
    from probes.results import WITH_GROUPS, Result, load_outputs

    paths = [path for name in TASKS if (path := folder / f"{name}.json").exists()]
    if not paths:
        raise OutputError(folder, "holds no results", "run `mert bench run -o` into it")
    for path in paths:
        result = Result.load(path)
        metrics, score = summarise(load_outputs(path), tuple(result.metrics), result.protocol)
        for name, value in (metrics | {"score": score}).items():
            stored = result.score if name == "score" else result.metrics[name]
            for key, computed in value.items():
                if key in ("ci95", "groups") and result.schema < WITH_GROUPS:
                    continue  # the interval was that of a bootstrap over items
                if not same(stored.get(key), computed):
                    reason = f"the {key} of {name} is {computed} by its outputs, not {stored.get(key)}"
                    raise OutputError(path, reason, "run the task again")
        typer.echo(f"{path}: {len(metrics)} metrics of {score['n']} items agree with the outputs")


def same(stored: Any, computed: Any) -> bool:
    """Whether two numbers, or two lists of them, are equal to four places."""
    import numpy as np

    return np.shape(stored) == np.shape(computed) and bool(
        np.allclose(np.array(stored, float), computed, rtol=0, atol=1e-4, equal_nan=True)
    )


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
