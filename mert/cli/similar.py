"""The command `mert similar`: the recordings of a folder that are most like a given one."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mert.cli.terminal import (
    AsJson,
    Device,
    Model,
    Revision,
    Window,
    check_device,
    console,
    parse_layers,
    parse_window,
    printable,
    progress,
)
from mert.errors import MertError, OutputError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from mert.collection.index import Index, Match
    from mert.embedding.embedder import Embedder
    from mert.embedding.options import Settings

DEFAULT_NAME = ".mert-index.npz"
SAVE_EVERY_S = 60.0


def similar(
    queries: Annotated[list[Path], typer.Argument(help="Recordings to compare with.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Folder of recordings to rank.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many to show.")] = 10,
    model: Model = "mert-nano",
    revision: Revision = None,
    layer: Annotated[str, typer.Option(help="One layer: recommended, last, 7, layer07, -1.")] = "recommended",
    window: Window = None,
    index: Annotated[Path | None, typer.Option(help=f"Index file; default: FOLDER/{DEFAULT_NAME}.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the index again.")] = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Rank the recordings of a folder by their similarity to each QUERY.

    Vectors are kept in an index: the next call embeds only what is new or changed. A recording with the bytes of the
    query is left out. Exit code 0: all well; 2: wrong usage; 3: some recordings could not be read.
    """
    names = _names(folder)
    path = index or folder / DEFAULT_NAME
    chosen = _one_layer(layer)
    check_device(device)
    held = _opened(path, rebuild)
    from mert.collection.extraction import resolve
    from mert.collection.index import Index, index_facts, vector_options
    from mert.embedding.load import load

    dtype = held.facts["dtype"] if held else "auto"  # an index may come from a machine of another kind
    embedder = load(model, revision=revision, device=device)
    settings = resolve(embedder, vector_options(chosen, parse_window(window), dtype))
    facts = index_facts(embedder, settings)
    if held and (difference := held.difference(facts)):  # replacing hours of work must be asked for
        remedy = "give --index FILE for an index of its own, or --rebuild to replace this one"
        raise UsageError(path, f"was made with {difference}", remedy)
    held = held or Index(facts)
    errors: list[MertError] = []
    vectors = _query_vectors(held, embedder, settings, queries, errors)
    _update(held, embedder, settings, folder, names, path, errors)
    if not len(held):
        raise MertError(folder, f"none of its {len(names)} recordings can be read", "see the reasons above")
    matches = {query: held.query(vector_D, k, [sha256]) for query, (sha256, vector_D) in vectors.items()}
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


def _one_layer(text: str) -> str | int:
    layers = parse_layers(text)
    layers = [layers] if isinstance(layers, str) else layers
    if layers == ["all"] or len(layers) != 1:
        raise UsageError(f"--layer {text}", "not one layer", "give recommended, last, a number or a name")
    return layers[0]


def _opened(path: Path, rebuild: bool) -> Index | None:
    from mert.collection.index import Index

    if rebuild or not path.exists():
        return None
    try:
        return Index.load(path)
    except OutputError as error:
        raise OutputError(path, error.reason, "check the path, or give --rebuild to build it again") from None


def _query_vectors(
    held: Index, embedder: Embedder, settings: Settings, queries: list[Path], errors: list[MertError]
) -> dict[Path, tuple[str, np.ndarray]]:
    """(sha256, vector [D]) of each query; raises the first error if no query can be used."""
    from mert.collection.extraction import extract
    from mert.collection.index import VectorExtraction

    vectors = {}
    for extraction in extract(embedder, settings, [VectorExtraction(query, held) for query in queries]):
        if extraction.error:
            errors.append(_known(extraction.error, extraction.path))
        else:
            vectors[extraction.path] = extraction.stamp.sha256, extraction.vector
    if not vectors:
        raise errors[0]
    return vectors


def _known(error: Exception, path: Path) -> MertError:
    if isinstance(error, MertError):
        return error
    return MertError(path, f"{type(error).__name__}: {error}", "leave it out")


def _update(
    held: Index, embedder: Embedder, settings: Settings, folder: Path, names: list[str], path: Path,
    errors: list[MertError],
) -> None:  # fmt: skip
    """Embed new or changed files under a progress bar, save every minute and at the end, and print a summary."""
    notes, refusals = console(stderr=True), list[str]()

    def save() -> float:
        try:
            held.save(path)
        except OutputError as error:  # the ranking does not need the file
            if not refusals:
                notes.print(f"the index will not be kept: {printable(str(error))}; or give --index FILE")
            refusals.append(str(error))
        return time.monotonic()

    is_missing = not path.exists()
    waiting, gone = held.outdated(folder, names)
    counts: Counter[str] = Counter()
    saved_at = save() if waiting else 0.0  # so that a disk that refuses is reported before the work
    try:
        with progress(notes, disable=not waiting) as bar:
            task = bar.add_task(f"embedding, {held.facts['layer']}", total=len(waiting))
            for extraction in held.update(embedder, settings, folder, waiting):
                if extraction.error:
                    errors.append(_known(extraction.error, extraction.path))
                counts["failed" if extraction.error else "embedded" if extraction.is_new else "known"] += 1
                bar.advance(task)
                if time.monotonic() - saved_at > SAVE_EVERY_S:
                    saved_at = save()
    finally:  # a stopped command continues from here
        if waiting or gone or is_missing:
            save()
    for error in errors:
        notes.print(f"failed: {printable(str(error))}")
    notes.print(
        f"{held.facts['model']}, {held.facts['layer']}: {counts['embedded']} embedded, "
        f"{len(held) - counts['embedded']} kept, {len(gone)} gone, {counts['failed']} failed; {printable(str(path))}"
    )


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
    from rich.table import Column, Table
    from rich.text import Text

    for query, found in matches.items():
        table = Table(
            Column("rank", justify="right"), Column("similarity", justify="right"), Column("path", overflow="fold"),
            title=Text(f"most like {printable(str(query))}"), title_justify="left", box=None,
        )  # fmt: skip
        for rank, match in enumerate(found, 1):
            table.add_row(str(rank), f"{match.similarity:.3f}", Text(printable(str(folder / match.name))))
        console().print(table, soft_wrap=False)
