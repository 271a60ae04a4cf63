"""The command `mert similar`: the recordings of a folder that are most like a given one."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mert
from mert.cli import terminal
from mert.errors import MertError, OutputError, UsageError

if TYPE_CHECKING:
    from mert.collection.index import Match
    from mert.embedding.batching import Settings

DEFAULT_NAME = ".mert-index.npz"
SAVE_EVERY_S = 60.0


def similar(
    queries: Annotated[list[Path], typer.Argument(help="Recordings to compare with.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder of recordings to rank.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many to show.")] = 10,
    model: terminal.Model = "mert-nano",
    revision: terminal.Revision = None,
    layer: Annotated[str, typer.Option(help="One layer: recommended, last, 7, layer07, -1.")] = "recommended",
    window: terminal.Window = None,
    index: Annotated[Path | None, typer.Option(help=f"Index file; default: FOLDER/{DEFAULT_NAME}.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the index again.")] = False,
    device: terminal.Device = "auto",
    as_json: terminal.AsJson = False,
) -> None:
    """Rank the recordings of a folder by their similarity to each QUERY.

    Vectors are kept in an index: the next call embeds only what is new or changed. A recording with the bytes of the
    query is left out. Exit code 0: all well; 2: wrong usage; 3: some recordings could not be read.
    """
    names = _names(folder)
    path = index or folder / DEFAULT_NAME
    chosen = terminal.parse_layers(layer)
    chosen = [chosen] if isinstance(chosen, str) else chosen
    if chosen == ["all"] or len(chosen) != 1:
        raise UsageError(f"--layer {layer}", "not one layer", "give recommended, last, a number or a name")
    terminal.check_device(device)
    from mert.collection.extraction import extract, resolve
    from mert.collection.index import VectorExtraction, index_facts, vector_options

    held = None if rebuild or not path.exists() else mert.Index.load(path)
    dtype = held.facts["dtype"] if held else "auto"  # an index may come from a machine of another kind
    embedder = mert.load(model, revision=revision, device=device)
    settings = resolve(embedder, vector_options(chosen[0], terminal.parse_window(window), dtype))
    facts = index_facts(embedder, settings)
    if held and (difference := held.difference(facts)):  # replacing hours of work must be asked for
        remedy = "give --index FILE for an index of its own, or --rebuild to replace this one"
        raise UsageError(path, f"was made with {difference}", remedy)
    held = held or mert.Index(facts)
    known = set(held.by_sha256)
    asked = list(extract(embedder, settings, [VectorExtraction(query, held) for query in queries]))
    errors = [query.error for query in asked if query.error]
    if len(errors) == len(asked):
        raise errors[0]
    _update(held, embedder, settings, folder, names, path, known, errors)
    if not len(held):
        raise MertError(folder, f"none of its {len(names)} recordings can be read", "see the reasons above")
    found = {query.path: held.query(query.vector, k, [query.stamp.sha256]) for query in asked if not query.error}
    (_print_json if as_json else _print_tables)(held, folder, found, errors)
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


def _update(
    held: mert.Index, embedder: mert.Embedder, settings: Settings, folder: Path, names: list[str], path: Path,
    known: set[str], errors: list[MertError],
) -> None:  # fmt: skip
    """Embed new or changed files under a progress bar, save every minute and at the end, and print a summary.

    `known` are the SHA-256 of the recordings that were held before; `errors` receives those of unreadable ones.
    """
    notes, refusals, n_asked = terminal.console(stderr=True), list[str](), len(errors)

    def save() -> float:
        try:
            held.save(path)
        except OutputError as error:  # the ranking does not need the file
            if not refusals:
                notes.print(f"the index will not be kept: {terminal.printable(str(error))}; or give --index FILE")
            refusals.append(str(error))
        return time.monotonic()

    is_missing = not path.exists()
    waiting, gone = held.outdated(folder, names)
    saved_at = save() if waiting else 0.0  # so that a disk that refuses is reported before the work
    try:
        with terminal.progress(notes, disable=not waiting) as bar:
            updated, task = held.update(embedder, settings, folder, waiting), f"embedding, {held.facts['layer']}"
            for extraction in bar.track(updated, total=len(waiting), description=task):
                if extraction.error:
                    errors.append(extraction.error)
                elif extraction.damaged:
                    about = f"{extraction.name}: {'; '.join(extraction.warnings)}"
                    bar.console.print(f"damaged: {terminal.printable(about)}")
                if time.monotonic() - saved_at > SAVE_EVERY_S:
                    saved_at = save()
    finally:  # a stopped command continues from here
        if waiting or gone or is_missing:
            save()
    for error in errors:
        notes.print(f"failed: {terminal.printable(str(error))}")
    n_new = len({stamp.sha256 for stamp in held.stamps.values()} - known)
    notes.print(
        f"{held.facts['model']}, {held.facts['layer']}: {n_new} embedded, {len(held) - n_new} kept, {len(gone)} gone, "
        f"{len(errors) - n_asked} failed; {terminal.printable(str(path))}"
    )


def _print_json(held: mert.Index, folder: Path, matches: dict[Path, list[Match]], errors: list[MertError]) -> None:
    def ranked(found: list[Match]) -> list[dict[str, Any]]:
        return [
            {"rank": rank, "similarity": round(match.similarity, 6), "path": str(folder / match.name)}
            for rank, match in enumerate(found, 1)
        ]

    queries = [{"query": str(query), "matches": ranked(found)} for query, found in matches.items()]
    failed = [{"path": error.source, "error": str(error)} for error in errors]
    about = {"model": held.facts["model"], "layer": held.facts["layer"], "n_recordings": len(held)}
    typer.echo(json.dumps(about | {"queries": queries, "failed": failed}, indent=2))


def _print_tables(held: mert.Index, folder: Path, matches: dict[Path, list[Match]], errors: list[MertError]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    for query, found in matches.items():
        table = Table(
            Column("rank", justify="right"), Column("similarity", justify="right"), Column("path", overflow="fold"),
            title=Text(f"most like {terminal.printable(str(query))}"), title_justify="left", box=None,
        )  # fmt: skip
        for rank, match in enumerate(found, 1):
            table.add_row(str(rank), f"{match.similarity:.3f}", Text(terminal.printable(str(folder / match.name))))
        terminal.console().print(table, soft_wrap=False)
