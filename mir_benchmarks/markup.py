"""HTML built from elements: text is escaped unless it is markup already, pictures travel inside the page."""

from __future__ import annotations

import base64
import html
import io
import re
import warnings
from typing import TYPE_CHECKING, Any

from mir_benchmarks.tables import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Markup(str):
    """Text that is HTML already."""


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
    """A table that scrolls sideways where it must, with its note; the first `n_ours` rows are set off."""
    kinds = ["word" if table.is_text(c) else "number" for c in range(len(table.columns))]
    head = element("tr", *(element("th", name, class_=kind) for name, kind in zip(table.columns, kinds, strict=True)))
    rows = []
    for r, row in enumerate(table.rows):
        cells = (
            element(
                "td", element("b", cell) if (r, c) in table.best else cell, class_=kinds[c] + " long" * (len(cell) > 48)
            )
            for c, cell in enumerate(row)
        )
        kind = "ours" if r < n_ours else "total" if r >= len(table.rows) - table.n_totals else "plain"
        rows.append(element("tr", *cells, class_=kind))
    width = {"class_": "wide"} if len(table.columns) > 12 else {}
    grid = element("table", element("thead", head), element("tbody", *rows), **width)
    return joined(
        element("div", grid, class_="scroll"), element("p", table.note, class_="note") if table.note else None
    )


def picture(axes: Axes, alt: str) -> Markup:
    """The figure of these axes as SVG within the page."""
    import matplotlib

    file = io.BytesIO()
    figure: Any = axes.figure
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "report"}):
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names of models and tags hold any script
        figure.savefig(file, format="svg", metadata={"Date": None})
    address = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
    width = f"{figure.get_figwidth() * 96:.0f}"
    return Markup(f'<img src="{address}" width="{width}" alt="{html.escape(alt)}">')
