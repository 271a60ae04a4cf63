"""The commands `mert probe fit` and `predict`: heads for user labels.

Each imports what it needs when it runs, because this module is loaded for `mert --help`, too.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mert.cli.terminal import Device, HeadKind, Numbers, Overwrite, Picture, Revision, counted

if TYPE_CHECKING:
    from mert.describe.head import SavedHead
    from mert.describe.predictions import Prediction

app = typer.Typer(no_args_is_help=True, help="Heads on frozen features for your own labels.")
Task = Literal["classification", "multilabel", "regression", "frames"]


@app.command()
def fit(
    features: Annotated[Path, typer.Argument(help="What `mert embed -o` wrote.", file_okay=False)],
    labels: Annotated[Path, typer.Argument(help="CSV: file, then label | tags | time | columns.", dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the head.", file_okay=False)],
    task: Annotated[Task | None, typer.Option(help="Default: by the columns.")] = None,
    layers: Annotated[str | None, typer.Option(help='Names or "all" (weighted); default: each, and "all".')] = None,
    lrs: Numbers = None,
    seeds: Numbers = None,
    head: Annotated[HeadKind, typer.Option(help="512 hidden units, or none.")] = "mlp",
    max_epochs: Annotated[int, typer.Option(min=1, help="At most.")] = 100,
    split_seed: Annotated[int, typer.Option(min=0, help="Of a random split.")] = 0,
    post: Annotated[Literal["peak", "dbn"], typer.Option(help="Events: peaks, or beats by a DBN.")] = "peak",
    tolerance: Annotated[float, typer.Option(min=0.001, help="Events: seconds that still count as a match.")] = 0.07,
    partial: Annotated[bool, typer.Option("--partial", help="Leave out what lacks a label, or features.")] = False,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Fit a head: every layer and rate on train, chosen on valid, tested once.

    The first column of LABELS.csv is the file, relative to FEATURES, with or without suffix. Classes are in a column
    label, tags in tags (a;b) or in columns of 0 and 1, values in columns of numbers, events in time (a row per event,
    seconds). Columns split (train, valid, test) and group (artist: never in two splits) are optional; without split,
    60/20/20 of the files are drawn at random.
    """
    from mert.cli.terminal import check_device, progress
    from mert.describe.head import CARD, refuse_other
    from mert.errors import UsageError
    from mert.inference.runner import chosen_device
    from probes.features.files import FeatureFiles
    from probes.user_labels.fit import FitOptions, fit_head
    from probes.user_labels.matching import match_features
    from probes.user_labels.table import read_labels

    if (out / CARD).exists() and not overwrite:
        raise UsageError(out, "holds a head", "give another -o, or --overwrite to replace it")
    refuse_other(out)
    check_device(device)
    table = read_labels(labels, task)
    if task is None:
        typer.echo(f"{table.task}, as the columns of {labels} say (--task to change)")
    table, paths = match_features(table, features, partial)
    files = FeatureFiles.load(paths, framewise=table.task == "frames")
    options = FitOptions(
        layers=tuple(layers.split(",")) if layers else None, hidden=512 if head == "mlp" else 0,
        max_epochs=max_epochs, split_seed=split_seed, post=post, tolerance_s=tolerance,
        device=str(chosen_device(device)), **grid_of(lrs, seeds),
    )  # fmt: skip
    with progress(transient=True) as bar:
        heads = bar.add_task("heads", total=None)
        fitted = fit_head(table, files, options, lambda row, total: bar.update(heads, advance=1, total=total))
    fitted.save(out)
    print_fit(fitted, out)


def plot_layers(
    results: Annotated[Path, typer.Argument(help="A result's JSON, or a folder of them (mert bench run).")],
    out: Picture,
) -> None:
    """Draw validation by layer, a panel for each task, with the layer that was chosen."""
    from mert.plots import picture_format, save_figure
    from probes.metrics import chance
    from probes.results import draw_chance, plot_results, read_results

    picture_format(out)
    layered = read_results(results)
    panels = plot_results(layered)
    for axes, result in zip(panels, layered, strict=True):
        monitor = next((name for seed in result.get("seeds", ()) for name in seed.get("valid", ())), "")
        task = result.get("task")
        draw_chance(axes, chance(monitor, tuple(task.get("classes", ())) if isinstance(task, dict) else ()))
    figure = panels[0].get_figure(root=True)
    assert figure is not None
    save_figure(figure, out)
    typer.echo(str(out))


@app.command()
def predict(
    head: Annotated[Path, typer.Argument(help="What `mert probe fit -o` wrote.", file_okay=False)],
    inputs: Annotated[list[Path], typer.Argument(metavar="AUDIO...", help="Audio or features files, and folders.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Name or folder; default: the fit's.")] = None,
    revision: Revision = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A new .csv or .json file.")] = None,
    device: Device = "auto",
) -> None:
    """Apply a head to recordings; any encoder but the one it was fitted on is an error.

    Exit code 0: all well; 1: an error that ends it; 2: wrong usage; 3: some files failed or are damaged.
    """
    from mert.cli.terminal import check_device, printable
    from mert.describe.head import SavedHead
    from mert.describe.predictions import write
    from mert.errors import MertError, UsageError

    if out is not None and out.suffix not in (".csv", ".json"):
        raise UsageError(out, "is neither .csv nor .json", "name a file with one of these suffixes")
    if out is not None and out.exists():  # it may hold somebody's labels
        raise UsageError(out, "exists", "give another name, or remove it")
    check_device(device)
    fitted = SavedHead.load(head)
    sources = [source for path in inputs for source in sources_of(path)]
    audio = any(not source.endswith(".npz") for source in sources)
    encoder = fitted.encoder(model, revision, device) if audio or model else None
    predictions: list[Prediction] = []
    for source in sources:
        try:
            predictions.append(fitted.predict(source, encoder))
            typer.echo(f"{printable(source)}: {text_of(predictions[-1])}")
            for warning in predictions[-1].warnings:
                typer.echo(f"warning: {printable(source)}: {printable(warning)}", err=True)
        except MertError as error:
            typer.echo(f"failed: {printable(str(error))}", err=True)
    if out is not None:
        write(out, fitted.card.task, fitted.card.classes, predictions)
        typer.echo(f"{len(predictions)} predictions: {out}")
    if len(predictions) < len(sources) or any(prediction.damaged for prediction in predictions):
        sys.exit(3)


def sources_of(path: Path) -> list[str]:
    """The file itself; of a folder its audio files, or, if it holds none, its features."""
    from mert.collection.plan import plan
    from mert.errors import UsageError

    if not path.is_dir():
        return [str(path)]
    try:
        return [job.source for job in plan([path], path).jobs]
    except UsageError:
        if features := [str(file) for file in sorted(path.rglob("*.npz"))]:
            return features
        raise


def text_of(prediction: Prediction) -> str:
    """A prediction on one line, for people."""
    if prediction.times is not None:
        return f"{len(prediction.times)} events" + "".join(f" {time:.3f}" for time in prediction.times)
    scores = prediction.scores or {}
    if prediction.task == "regression":
        return ", ".join(f"{name} {value:.6g}" for name, value in scores.items())
    return ", ".join(f"{name} {scores[name]:.2f}" for name in prediction.labels) or "no tag is probable enough"


def grid_of(lrs: str | None, seeds: str | None) -> dict[str, Any]:
    """The parts of the grid that are given; UsageError for what are no numbers."""
    from mert.errors import UsageError

    try:
        given: dict[str, Any] = {"lrs": tuple(map(float, lrs.split(",")))} if lrs else {}
        given |= {"seeds": tuple(map(int, seeds.split(",")))} if seeds else {}
        is_good = all(0 < rate < math.inf for rate in given.get("lrs", ()))
        if not is_good or any(seed < 0 for seed in given.get("seeds", ())):
            raise ValueError("a rate is no number above 0, or a seed is negative")
        return given
    except ValueError as error:
        raise UsageError("--lrs, --seeds", str(error), "give numbers: --lrs 1e-3,1e-2 --seeds 0,1") from None


def print_fit(fitted: SavedHead, out: Path) -> None:
    """Print validation by layer, with the test score of the selected one."""
    from rich.table import Table

    from mert.cli.terminal import console
    from probes.results import LayerCurve

    card, lines = fitted.card, console()
    metric, n = card.scores["metric"], {part: len(card.split[part]) for part in ("train", "valid", "test")}
    lines.print(f"split: {', '.join(f'{count} {part}' for part, count in n.items())} ({card.split['how']})")
    for note in card.notes:
        lines.print(f"note: {note}")
    if card.counts:
        classes = Table("class", *n, box=None)
        for name, in_part in card.counts.items():
            classes.add_row(name, *(str(in_part[part]) for part in n))
        lines.print(classes)
    layers = Table("layer", "lr", f"valid {metric}", f"test {metric}", "n", box=None)
    curve = LayerCurve.of(card.grid)
    for layer, lr, valid in zip(curve.layers, curve.lrs, curve.mean, strict=True):
        test = (f"{card.scores['test'][metric]:.1f}", str(n["test"])) if layer == card.layer else ()
        layers.add_row(layer, f"{lr:g}", f"{round(valid, 1) + 0.0:.1f}", *test)
    lines.print(layers)
    seeds = counted(len(card.scores["seeds"]), "seed")
    lines.print(f"in points, means over {seeds}; kept: the head of seed {card.head['seed']}, in {out}")
