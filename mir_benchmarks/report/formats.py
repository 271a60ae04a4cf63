"""The report on results of one or several models: tables as Markdown or LaTeX, all numbers as CSV, or one HTML page.

Labels are escaped.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mert.errors import UsageError
from mert.files import write_whole
from mir_benchmarks.conditions import Searched, marks
from mir_benchmarks.published import cells
from mir_benchmarks.report import tables
from mir_benchmarks.report.runs import Run, averages, clear_best, load_runs, unlike
from mir_benchmarks.report.tables import Table, unit_of
from mir_benchmarks.tasks.registry import TASKS
from probes.metrics import METRICS
from probes.results import Result

CSV_COLUMNS = (
    "origin", "model", "revision", "sha256", "task", "task_version", "data", "metric", "unit", "mean", "low", "high",
    "n", "seeds", "layer", "lr", "protocol", "limit", "source", "status", "head", "grid", "computed_in", "marks",
    "not_alike_in", "clear_best", "scaling",
)  # fmt: skip


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


def markdown(table: Table) -> str:
    """A GitHub table below its title, the note under it."""
    return f"## {md_text(table.title)}\n\n{md_grid(table)}"


def md_grid(table: Table) -> str:
    """A GitHub table, the note under it."""
    rule = [":--" if table.is_text(c) else "--:" for c in range(len(table.columns))]
    head, *rows = table.escaped(md_text, "**{}**")
    body = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
    return f"{body}\n" + (f"\n{md_text(table.note)}\n" if table.note else "")


def md_text(text: str) -> str:
    r"""Text escaped for Markdown.

    >>> print(md_text("a|b *c* <i>"))
    a\|b \*c\* &lt;i>
    """
    escaped = re.sub(r"([\\`*_\[\]|~#])", r"\\\1", " ".join(text.split()))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "–": "--", "−": "$-$", "²": "$^2$", "†": r"\textdagger{}", "×": r"$\times$", "[": "{[}", "]": "{]}",
    "‡": r"\textdaggerdbl{}", "§": r"\S{}", "¶": r"\P{}",
}  # fmt: skip


def tex_text(text: str) -> str:
    r"""Text escaped for LaTeX.

    >>> print(tex_text("100 % of $a_b$"))
    100 \% of \$a\_b\$
    """
    return "".join(LATEX.get(letter, letter) for letter in " ".join(text.split()))


def latex(table: Table) -> str:
    """A table for the packages booktabs and graphicx, scaled to the width of the text if it is wide."""
    align = "".join("l" if table.is_text(c) else "r" for c in range(len(table.columns)))
    head, *body = [" & ".join(line) + r" \\" for line in table.escaped(tex_text, r"\textbf{{{}}}")]
    if table.n_totals:
        body.insert(-table.n_totals, r"\midrule")
    grid = [rf"\begin{{tabular}}{{{align}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    if len(table.columns) > 5:
        grid = [r"\resizebox{\textwidth}{!}{%", *grid[:-1], grid[-1] + "}"]
    caption = rf"\caption{{{tex_text(f'{table.title}. {table.note}')}}}"
    return "\n".join([r"\begin{table*}", r"\centering", caption, *grid, r"\end{table*}", ""])


def csv_text(runs: Sequence[Run]) -> str:
    """One row per number, measured ones first, then published ones; numbers are not rounded."""
    beside = {name: ", ".join(unlike(runs, name)) for name in TASKS}
    best = {name: winner for name in TASKS if (winner := clear_best(runs, name)) is not None}
    rows = []
    for r, run in enumerate(runs):
        for name, result in run.results.items():
            judged = {"not_alike_in": beside[name], "clear_best": "yes" * (best.get(name) == r)}
            rows += [row | judged for row in _measured(run.label, result)]
    for label, mean in averages(runs).items():
        data = next("synthetic" if run.synthetic else "real" for run in runs if run.label == label)
        rows.append({
            "origin": "measured", "model": label, "task": "average", "metric": "score", "unit": "points",
            "mean": repr(mean), "data": data,
        })  # fmt: skip
    for cell in cells():
        unit = METRICS[cell.metric].unit if cell.metric in METRICS else "points"
        facts = {"task": cell.task, "metric": cell.metric, "unit": unit, "mean": repr(cell.value)}
        about = {"model": cell.model, "data": "real", "source": f"{cell.table}: {cell.source}", "status": cell.status}
        rows.append({"origin": "published"} | facts | about)
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def csv_cell(value: Any) -> str:
    """A cell; an apostrophe keeps spreadsheets from running text that begins like a formula.

    >>> csv_cell("=1+2"), csv_cell("-39.6"), csv_cell("MERT-v1")
    ("'=1+2", '-39.6', 'MERT-v1')
    """
    text = str(value).replace("\r", " ")  # which the writer would not quote
    is_number = re.fullmatch(r"[+-]?(\d[\d.]*(e[+-]?\d+)?|inf|nan)", text) is not None
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) and not is_number else text


def _measured(label: str, result: Result) -> Iterator[dict[str, Any]]:
    fixed = {
        "origin": "measured", "model": label, "revision": result.model.get("revision") or "",
        "sha256": result.model.get("sha256") or "", "task": result.task["name"],
        "task_version": result.task.get("version", ""), "data": result.task["data"], "layer": result.layer,
        "lr": repr(result.lr), "protocol": json.dumps(result.protocol), "limit": result.limit or "",
        "unit": unit_of(result), "head": tables.head_name(result), "grid": str(Searched.of(result)),
        "computed_in": tables.computed(result), "marks": "; ".join(marks(result)),
        "scaling": result.scaling,
    }  # fmt: skip
    for name, summary in (result.metrics | {"score": result.score}).items():
        low, high = map(repr, summary["ci95"] or ("", ""))
        numbers = {"mean": repr(summary["mean"]), "low": low, "high": high, "n": summary["n"]}
        yield fixed | {"metric": name, "seeds": json.dumps(summary["seeds"])} | numbers
