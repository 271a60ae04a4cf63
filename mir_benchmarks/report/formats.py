"""The report on results of one or several models in each format: Markdown, CSV, LaTeX, or one HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mert.errors import UsageError
from mert.files import write_whole
from mir_benchmarks.report import tables
from mir_benchmarks.report.runs import load_runs
from mir_benchmarks.report.text import csv_text, latex, markdown

FORMATS = ("md", "csv", "tex", "html")


def report_text(folders: Sequence[Path], form: str) -> str:
    """The report on the results in `folders`, as text of format `form`."""
    if form not in FORMATS:
        raise UsageError("report", f"there is no format {form}", f"give one of {', '.join(FORMATS)}")
    runs = load_runs(folders)
    if form == "csv":
        return csv_text(runs)
    if form == "html":
        from mir_benchmarks.report.html import page

        return page(runs)
    candidates = (
        tables.scores_table(runs), tables.comparison_table(runs), tables.published_table(runs),
        tables.details_table(runs), tables.notes_table(runs), tables.origins_table(runs),
    )  # fmt: skip
    shown = [table for table in candidates if table is not None and table.rows]
    if form == "md":
        return "# MIR benchmark\n\n" + "\n".join(map(markdown, shown))
    return "% needs the packages booktabs and graphicx\n" + "\n".join(map(latex, shown))


def write_report(folders: Sequence[Path], out: Path, form: str) -> Path:
    """Write the report to `out`, which is returned, whole or not at all."""
    text = report_text(folders, form)
    with write_whole(Path(out)) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return Path(out)
