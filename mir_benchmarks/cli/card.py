"""The command `mert bench card`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path | None, typer.Option(help="Its results: what `mert bench run -o` wrote.", file_okay=False)]


def card(
    model: Annotated[Path, typer.Argument(help="What `mert export` wrote, with its README.md.", file_okay=False)],
    run: Annotated[Path | None, typer.Option(help="The training run it came from.", file_okay=False)] = None,
    results: Results = None,
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
    """Write the measured sections of a model's card. What is not given is not measured; run it again to renew them."""
    from mir_benchmarks.card import Sources, write_card

    sources = Sources(
        run, results, tuple(beside or ()), twin, robustness, triplets, hardware, tuple(commands or ())
    )  # fmt: skip
    typer.echo(str(write_card(model, sources)))
