"""The commands `mert plot ...`: figures for a paper, as PNG, SVG or PDF."""

from pathlib import Path
from typing import Annotated

import typer

import mert
from mert.cli.terminal import Picture, plugins
from mert.cli.train import teachers_explain
from mert.errors import UsageError

app = typer.Typer(
    name="plot", no_args_is_help=True, help="Draw features, layers, training runs and codes (PNG, SVG, PDF)."
)


@app.command()
@teachers_explain()
def codes(
    stores: Annotated[list[Path], typer.Argument(help="Label stores (mert tokenize), one row of panels per store.")],
    out: Picture,
) -> None:
    """Draw perplexity and use of the codes of label stores, codebook by codebook."""
    from mert.plots import new_figure, picture_format, plot_codes, save_figure
    from teachers.labels import LabelStore

    picture_format(out)
    for folder in stores:
        if (folder / "teacher.json").exists():
            remedy = f"make a store with it, mert tokenize MUSIC -o STORE --teacher {folder}, and name that"
            raise UsageError(folder, "is a teacher, which holds no codes", remedy)
    figure = new_figure(9.0, 3.8 * len(stores))
    for folder, panels in zip(stores, figure.subplots(len(stores), 2, squeeze=False), strict=True):
        store = LabelStore(folder)
        counts_KC = store.counts()
        if not counts_KC.sum():
            raise UsageError(folder, "holds no codes", "tokenize music of some seconds")
        title = f"{store.name}: {counts_KC[0].sum():,} frames of {len(store):,} recordings"
        plot_codes(counts_KC, store.n_classes, title, panels)
    save_figure(figure, out)
    typer.echo(str(out))


@app.command()
def ssm(
    features: Annotated[Path, typer.Argument(help="A features .npz with frames.")],
    out: Picture,
    layer: Annotated[str | None, typer.Option(help="Layer name; default: the last of the file.")] = None,
) -> None:
    """Draw the self-similarity of a recording in one layer: blocks and stripes show its form."""
    from mert.plots import picture_format, plot_ssm, save_axes

    picture_format(out)
    held = mert.Features.load(features)
    if layer is not None and layer not in held.layers:
        raise UsageError(features, f"holds no layer {layer}", f"ask for {' or '.join(held.layers)}")
    if held.times is None:
        raise UsageError(features, "holds pooled features, without a time axis", "embed with --pool none")
    save_axes(plot_ssm(held, layer), out)
    typer.echo(str(out))


@app.command()
def curves(
    run: Annotated[Path, typer.Argument(help="The folder of a training run (out=), or its metrics.jsonl.")],
    out: Picture,
) -> None:
    """Draw the curves of a training run: loss, held-out accuracy and error, gradient norm, learning rate."""
    from mert.files import read_rows
    from mert.plots import picture_format, plot_curves, save_axes

    picture_format(out)
    path = run / "metrics.jsonl" if run.is_dir() else run
    rows = [row for row in read_rows(path) if "step" in row and "loss" in row]
    if not rows:
        raise UsageError(path, "holds no steps of a training run", "name the folder that `mert pretrain` wrote (out=)")
    save_axes(plot_curves(rows, path.absolute().parent.name)[0], out)
    typer.echo(str(out))


for name, plot in plugins("mert.plots", "mert plot"):
    app.command(name)(plot)
