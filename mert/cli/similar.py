"""The command `mert similar`: the recordings of a folder that are most like a given one."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mert.cli.terminal import check_device, parse_layers, parse_window, printable, usage_errors
from mert.errors import MertError, OutputError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from mert.collection.index import Index, Listener, Match

DEFAULT_NAME = ".mert-index.npz"
SAVE_EVERY_S = 60.0


def similar(
    queries: Annotated[list[Path], typer.Argument(help="Recordings to compare with.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder of recordings to rank.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many to show.")] = 10,
    model: Annotated[str, typer.Option("--model", "-m", envvar="MERT_MODEL", help="Name or folder.")] = "mert-nano",
    revision: Annotated[str | None, typer.Option(help="Revision of a hub model.")] = None,
    layer: Annotated[str, typer.Option(help="One layer: last (or the recommended one), 7, layer07, -1.")] = "last",
    window: Annotated[str | None, typer.Option(help='Seconds, or "whole"; default: the training context.')] = None,
    index: Annotated[Path | None, typer.Option(help=f"Index file; default: FOLDER/{DEFAULT_NAME}.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Make the index anew.")] = False,
    device: Annotated[str, typer.Option("--device", "-d", help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rank the recordings of a folder by how alike they are to each QUERY.

    Vectors are kept in an index: the next call embeds only what is new or changed. A recording with the bytes of the
    query is left out. Exit code 0: all well; 2: wrong usage; 3: some recordings could not be read.
    """
    from rich.console import Console

    names = _names(folder)
    path = index or folder / DEFAULT_NAME
    chosen = _one_layer(layer)
    check_device(device)
    notes = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    held = _opened(path, rebuild)
    from mert.collection.index import Index, Listener
    from mert.embedding.load import load

    dtype = held.facts["dtype"] if held else "auto"  # an index may come from a machine of another kind
    embedder = load(model, revision=revision, device=device)
    with usage_errors("similar"):
        listener = Listener(embedder, chosen, parse_window(window), dtype)
    if held:
        _refuse_other(held, listener, path)
    held = held or Index(listener.facts)
    errors: list[MertError] = []
    asked = _heard(held, listener, queries, errors)
    _update(held, listener, folder, names, path, errors, notes)
    if not len(held):
        raise MertError(folder, f"none of its {len(names)} recordings can be read", "see the reasons above")
    matches = {query: held.query(vector_D, k, [sha256]) for query, (sha256, vector_D) in asked.items()}
    (_print_json if as_json else _print_tables)(held, folder, matches, errors)
    raise typer.Exit(3 if errors else 0)


def _names(folder: Path) -> list[str]:
    """Relative paths of the recordings below a folder, with / on every system."""
    from mert.audio.find import audio_under

    if not folder.is_dir():
        raise UsageError(folder, "is not a folder", "give QUERY... FOLDER: the folder to rank comes last")
    passed_over: Counter[str] = Counter()
    names = [path.relative_to(folder).as_posix() for path in audio_under(folder, passed_over)]
    if not names:
        raise UsageError(folder, f"no recordings among its {passed_over.total()} files", "give a folder of audio files")
    return names


def _one_layer(text: str) -> str | int | None:
    """A name or number; None for the recommended layer."""
    layers = parse_layers(text)
    if isinstance(layers, str):
        layers = [layers]
    if layers == ["all"] or len(layers) != 1:
        raise UsageError(f"--layer {text}", "not one layer", "give last, a number or a name")
    return None if layers == ["last"] else layers[0]


def _opened(path: Path, rebuild: bool) -> Index | None:
    from mert.collection.index import Index

    if rebuild or not path.exists():
        return None
    try:
        return Index.load(path)
    except OutputError as error:
        raise OutputError(path, error.reason, "check the path, or give --rebuild to make it anew") from None


def _refuse_other(held: Index, listener: Listener, path: Path) -> None:
    """UsageError for an index that was made in another way: to replace hours of work must be asked for."""
    if difference := held.difference(listener.facts):
        remedy = "give --index FILE for an index of its own, or --rebuild to replace this one"
        raise UsageError(path, f"was made with {difference}", remedy)


def _heard(held: Index, listener: Listener, queries: list[Path], errors: list[MertError]) -> dict[Path, Any]:
    """(sha256, vector [D]) of each query; the error, where there is none without."""
    asked = {}
    for query in queries:
        try:
            asked[query] = held.heard(listener, query)
        except MertError as error:
            errors.append(error)
    if not asked:
        raise errors[0]
    return asked


def _update(
    held: Index, listener: Listener, folder: Path, names: list[str], path: Path, errors: list[MertError],
    notes: Console,
) -> None:  # fmt: skip
    """Embed what is new or changed under a progress bar, save on the way and at the end, and say what was done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mert.collection.executors import run_here

    def add(name: str) -> str:
        try:
            return "embedded" if held.add(listener, folder, name) else "known"
        except MertError as error:
            errors.append(error)
        except Exception as error:  # whatever a file does to its decoder, the others go on
            errors.append(MertError(Path(folder, name), f"{type(error).__name__}: {error}", "leave it out"))
        return "failed"

    fresh = not path.exists()
    waiting, gone = held.outdated(folder, names)
    keeper = Keeper(held, path, notes)
    if waiting:  # a disk that cannot be written is told before the work
        keeper.save()
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    counts: Counter[str] = Counter()
    try:
        with Progress(*columns, console=notes, disable=not waiting) as bar:
            task = bar.add_task(f"embedding, {listener.layer}", total=len(waiting))
            for outcome in run_here(map(add, waiting)):
                counts[outcome] += 1
                bar.advance(task)
                keeper.save(every_s=SAVE_EVERY_S)
    finally:  # a stopped command goes on from here
        if waiting or gone or fresh:
            keeper.save()
    for error in errors:
        notes.print(f"failed: {printable(str(error))}")
    kept = len(held) - counts["embedded"]
    notes.print(
        f"{listener.facts['model']}, {listener.layer}: {counts['embedded']} embedded, {kept} kept, {len(gone)} gone, "
        f"{counts['failed']} failed; {printable(str(path))}"
    )


class Keeper:
    """Saves an index while it grows; where the disk refuses, the ranking is made all the same."""

    def __init__(self, held: Index, path: Path, notes: Console) -> None:
        self._held, self._path, self._notes = held, path, notes
        self._saved_at = -float("inf")
        self._told = False

    def save(self, every_s: float = 0.0) -> None:
        """Save, unless that was done less than `every_s` ago."""
        if time.monotonic() - self._saved_at < every_s:
            return
        self._saved_at = time.monotonic()
        try:
            self._held.save(self._path)
        except OutputError as error:
            if not self._told:
                self._notes.print(f"the index will not be kept: {printable(str(error))}; or give --index FILE")
            self._told = True


def _print_json(held: Index, folder: Path, matches: dict[Path, list[Match]], errors: list[MertError]) -> None:
    ranked = [
        {
            "query": str(query),
            "matches": [
                {"rank": rank, "similarity": round(match.similarity, 6), "path": str(folder / match.name)}
                for rank, match in enumerate(found, 1)
            ],
        }
        for query, found in matches.items()
    ]
    failed = [{"path": error.source, "error": str(error)} for error in errors]
    about = {"model": held.facts["model"], "layer": held.facts["layer"], "n_recordings": len(held)}
    typer.echo(json.dumps(about | {"queries": ranked, "failed": failed}, indent=2))


def _print_tables(held: Index, folder: Path, matches: dict[Path, list[Match]], errors: list[MertError]) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    for query, found in matches.items():
        table = Table(
            Column("rank", justify="right"), Column("similarity", justify="right"), Column("path", overflow="fold"),
            title=Text(f"most like {printable(str(query))}"), title_justify="left", box=None,
        )  # fmt: skip
        for rank, match in enumerate(found, 1):
            table.add_row(str(rank), f"{match.similarity:.3f}", Text(printable(str(folder / match.name))))
        Console().print(table)
