"""The command `mert plot codes`: how a label store uses the codes of its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mert.errors import UsageError
from mert.train.train_cli import teachers_explain


@teachers_explain()
def codes(
    stores: Annotated[list[Path], typer.Argument(help="Label stores (mert tokenize), a row of panels each.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write (.png, .svg, .pdf).")],
) -> None:
    """Draw perplexity and use of the codes of label stores, codebook by codebook."""
    from mert.plots import new_axes, picture_format, plot_codes, save_figure
    from teachers.labels import LabelStore

    picture_format(out)
    for folder in stores:
        if (folder / "teacher.json").exists():
            remedy = f"make a store with it, mert tokenize MUSIC -o STORE --teacher {folder}, and name that"
            raise UsageError(folder, "is a teacher, which holds no codes", remedy)
    figure: Any = new_axes(9.0, 3.8 * len(stores)).figure
    figure.clear()
    for folder, panels in zip(stores, figure.subplots(len(stores), 2, squeeze=False), strict=True):
        store = LabelStore(folder)
        counts_KC = store.counts()
        if not counts_KC.sum():
            raise UsageError(folder, "holds no codes", "tokenize music of some seconds")
        title = f"{store.name}: {counts_KC[0].sum():,} frames of {len(store):,} recordings"
        plot_codes(counts_KC, store.n_classes, title, panels)
    save_figure(figure, out)
    typer.echo(str(out))
