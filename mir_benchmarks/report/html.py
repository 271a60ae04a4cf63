"""The report as one HTML page without scripts or network access: figures are inside it, all text is escaped.

Colours and layout of the page are in page.css, colours of series in `mert.plots`.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mert.plots import COLOURS, plain_texts
from mir_benchmarks.conditions import SIGNS
from mir_benchmarks.report import figures, tables
from mir_benchmarks.report.runs import Run, unlike
from mir_benchmarks.report.tables import Table
from mir_benchmarks.report.worst_items import MEASURES, WorstItem, worst_items
from mir_benchmarks.tasks.registry import TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Markup(str):
    """HTML, which is not escaped again."""


def element(name: str, *children: str | None, **attributes: str) -> Markup:
    """An element with its children; None is left out, a trailing underscore of an attribute's name is dropped.

    >>> element("p", "1 < 2 ", element("b", "so"), class_="note")
    '<p class="note">1 &lt; 2 <b>so</b></p>'
    """
    given = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: str | None) -> Markup:
    """Children one after the other, text escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c) for c in children if c is not None))


def slug(title: str) -> str:
    """A title as the name of an anchor.

    >>> slug("Beside published results")
    'beside-published-results'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def table_of(table: Table, n_ours: int = 0) -> Markup:
    """A table with its note, which scrolls sideways if it is wide; the first `n_ours` rows are highlighted."""
    kinds = ["word" if table.is_text(c) else "number" for c in range(len(table.columns))]
    head = element("tr", *(element("th", name, class_=kind) for name, kind in zip(table.columns, kinds, strict=True)))
    rows = []
    for r, row in enumerate(table.rows):
        shown = (element("b", cell) if (r, c) in table.best else cell for c, cell in enumerate(row))
        classes = (kind + " long" * (len(cell) > 48) for kind, cell in zip(kinds, row, strict=True))
        cells = (element("td", cell, class_=kind) for cell, kind in zip(shown, classes, strict=True))
        kind = "ours" if r < n_ours else "total" if r >= len(table.rows) - table.n_totals else "plain"
        rows.append(element("tr", *cells, class_=kind))
    width = {"class_": "wide"} if len(table.columns) > 12 else {}
    grid = element("table", element("thead", head), element("tbody", *rows), **width)
    note = element("p", table.note, class_="note") if table.note else None
    return joined(element("div", grid, class_="scroll"), note)


def picture(axes: Axes, alt: str) -> Markup:
    """The figure of these axes as SVG within the page."""
    file = io.BytesIO()
    figure: Any = axes.figure
    with plain_texts(figure, "report"):
        figure.savefig(file, format="svg", metadata={"Date": None})
    address = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
    width = f"{figure.get_figwidth() * 96:.0f}"
    return Markup(f'<img src="{address}" width="{width}" alt="{html.escape(alt)}">')


def page(runs: Sequence[Run]) -> str:
    names = ", ".join(run.label for run in runs)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    sections = [(title, body) for title, body in _sections(runs) if body]
    links = (element("a", title, href=f"#{slug(title)}") for title, _ in sections)
    head = joined(
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        element("title", f"MIR benchmark: {names}"),
        element("style", Markup(files(__package__).joinpath("page.css").read_text(encoding="utf-8"))),
    )
    top = element("header", element("h1", "MIR benchmark"), _models(runs), *_banners(runs), element("nav", *links))
    body = joined(*(element("section", element("h2", title), content, id=slug(title)) for title, content in sections))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{top}<main>{body}</main></body></html>\n'


def _models(runs: Sequence[Run]) -> Markup:
    chips = []
    for r, run in enumerate(runs):
        dot = element("i", class_="dot", style=f"background:{COLOURS[r % len(COLOURS)]}")
        count = element("small", f" {len(run.results)} of {len(TASKS)} tasks")
        chips.append(element("span", dot, run.label, count, class_="chip"))
    return element("p", *chips)


def _banners(runs: Sequence[Run]) -> Iterator[Markup]:
    """Warnings that stand before all numbers: synthetic data, limited runs, results that are not alike."""
    if any(run.synthetic for run in runs):
        tasks = sum(result.task["data"] == "synthetic" for run in runs for result in run.results.values())
        yield _banner("Synthetic data", f"{tasks} results are on {SIGNS['*']}.", "synthetic")
    limits = {result.limit for run in runs for result in run.results.values() if result.limit}
    if limits:
        yield _banner("Not comparable", f"Some results are of limited runs: {'; '.join(sorted(limits))}.", "limit")
    if facts := sorted({fact for name in TASKS for fact in unlike(runs, name)}):
        yield _banner(
            "Not alike", f"Some results of a task differ in {', '.join(facts)}: they are not ranked.", "limit"
        )


def _banner(title: str, text: str, kind: str) -> Markup:
    return element("p", element("b", title), " ", text, class_=f"banner {kind}")


def _sections(runs: Sequence[Run]) -> Iterator[tuple[str, Markup | None]]:
    yield "Task scores", joined(table_of(tables.scores_table(runs)), _scores(runs))
    comparisons = tables.comparison_table(runs)
    yield "Paired comparisons", table_of(comparisons) if comparisons else None
    published = table_of(tables.published_table(runs), len(runs))
    if any(run.synthetic for run in runs):
        published = folded("Published results, which are on the real data", published)
    yield "Beside published results", published
    yield "Layers", joined(*(part for run in runs for part in _layers(run)))
    yield "Confusions and estimates", joined(*(part for run in runs for part in _confusions(run)))
    yield "Worst test items", joined(*(part for run in runs for part in _worst_items(run)))
    yield "Details", table_of(tables.details_table(runs))
    notes = tables.notes_table(runs)
    yield "Notes", table_of(notes) if notes.rows else None
    yield "Origins and versions", table_of(tables.origins_table(runs))


def folded(title: str, body: Markup, more: str = "") -> Markup:
    """A body that is shown on a click on its title."""
    return element("details", element("summary", title, element("small", more)), body)


def _scores(runs: Sequence[Run]) -> Markup | None:
    if all(set(run.results) <= {"musdb18"} for run in runs):
        return None
    caption = "Dots are means over seeds, lines 95 % intervals over test items; hollow dots are of limited "
    caption += "runs, or of results that are not alike. Separation is left out: it is in dB."
    return _figure(
        picture(figures.plot_scores(runs), f"Task scores. {'; '.join(map(_scores_in_words, runs))}"), caption
    )


def _scores_in_words(run: Run) -> str:
    return f"{run.label}: " + ", ".join(f"{TASKS[name].title} {value:.1f}" for name, value in run.scores.items())


def _figure(image: Markup, caption: str) -> Markup:
    return element("figure", image, element("figcaption", caption))


def _layers(run: Run) -> Iterator[Markup]:
    if not run.layered:
        return
    yield element("h3", run.label)
    caption = "Validation of each layer at its best learning rate, z-scored within the task; the best layer is boxed."
    best = ", ".join(f"{TASKS[name].title} {curve.layers[curve.mean.argmax()]}" for name, curve in run.layered.items())
    yield _figure(picture(figures.plot_heatmap(run), f"Best layers of {run.label} on validation: {best}"), caption)
    caption = "Validation by layer (e: the encoder's input), mean and range over seeds; the circle is the layer that "
    caption += "was chosen, the diamond all layers weighted, the dotted line chance."
    chosen = ", ".join(f"{TASKS[name].title} {run.results[name].layer}" for name in run.layered)
    yield _figure(picture(figures.plot_layer_curves(run)[0], f"Chosen layers of {run.label}: {chosen}"), caption)


def _confusions(run: Run) -> Iterator[Markup]:
    images = []
    for name, outputs in run.outputs.items():
        result, kind = run.results[name], TASKS[name].kind
        if kind in ("classification", "key"):
            words = f"Confusions of {TASKS[name].title}, {run.label}: {figures.confusions_in_words(result, outputs)}"
            images.append(picture(figures.plot_confusion(result, outputs), words))
        for target in outputs.columns if kind == "regression" else ():
            words = f"Estimates of {target} against the reference, {run.label}: {figures.r2_in_words(result, target)}"
            images.append(picture(figures.plot_estimates(result, outputs, target), words))
    if images:
        yield element("h3", run.label)
        yield element("div", *(element("figure", image) for image in images), class_="gallery")


def _worst_items(run: Run) -> Iterator[Markup]:
    items = {name: worst_items(run.results[name], outputs) for name, outputs in run.outputs.items()}
    if any(items.values()):
        yield element("h3", run.label)
    for name, worst in items.items():
        if worst:
            yield folded(TASKS[name].title, table_of(_worst_table(name, worst)), f" {len(worst)} items")


def _worst_table(name: str, worst: Sequence[WorstItem]) -> Table:
    """A table of the worst items of a task; beats and stems have no label that could be shown."""
    words = ("reference", "estimate") if any(item.reference for item in worst) else ("estimate",)
    rows = [(item.id, *(getattr(item, word) for word in words), *item.measures) for item in worst]
    columns = ("item", *words, *MEASURES[TASKS[name].kind])
    return Table(TASKS[name].title, columns, rows, text=frozenset(words))
