"""The command `mert bench report`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    md = "md"
    csv = "csv"
    tex = "tex"
    html = "html"


def report(
    folders: Annotated[list[Path], typer.Argument(help="What `mert bench run -o` wrote; one folder for each model.")],
    form: Annotated[
        Format, typer.Option("--format", "-f", help="html is one page that needs nothing else.")
    ] = Format.md,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default: print.", dir_okay=False)
    ] = None,
) -> None:
    """Tables and pictures of one model's results, or of several beside each other."""
    from mir_benchmarks.report.write import report_text, write_report

    if out is None:
        typer.echo(report_text(folders, form.value), nl=False)
    else:
        typer.echo(str(write_report(folders, out, form.value)))
