"""The command `mert similar`: the recordings of a folder that are most like a given one, or like a part of one."""

from __future__ import annotations

import json
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import mert
from mert.audio.find import INDEX
from mert.cli import terminal
from mert.errors import MertError, OutputError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from mert.collection.extraction import Extraction
    from mert.collection.filters import Filter
    from mert.collection.index import Match
    from mert.collection.vectors import VectorExtraction
    from mert.embedding.batching import Settings

SAVE_EVERY_S, SAVE_EVERY_ROWS = 60.0, 4096


def similar(
    queries: Annotated[
        list[str],
        typer.Argument(
            help="Recordings to compare with, or parts: song.mp3@60-75.", default_factory=list, show_default=False
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder of recordings to rank.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="How many to show.")] = 10,
    model: terminal.Model = terminal.DEFAULT,
    revision: terminal.Revision = None,
    layer: Annotated[str, typer.Option(help="One layer: recommended, last, 7, layer07, -1.")] = "recommended",
    window: terminal.Window = None,
    index: Annotated[Path | None, typer.Option(help=f"Folder of the index; default: FOLDER/{INDEX}.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build the index again.")] = False,
    under: Annotated[Path | None, typer.Option(help="Only recordings below this folder in FOLDER.")] = None,
    longer_than: Annotated[float | None, typer.Option(help="Only recordings of at least so many seconds.")] = None,
    shorter_than: Annotated[float | None, typer.Option(help="Only recordings of at most so many seconds.")] = None,
    described: Annotated[Path | None, typer.Option(help="What mert describe -o wrote of FOLDER, to filter by.")] = None,
    key: Annotated[str | None, typer.Option(help='Only this key, such as "A minor".')] = None,
    tempo: Annotated[str | None, typer.Option(help="Only tempi in this range, in BPM: 100-130.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only recordings with this tag; several: with all.")] = None,
    not_versions: Annotated[bool, typer.Option("--not-versions", help="Leave out versions of the query.")] = False,
    import_: Annotated[Path | None, typer.Option("--import", help="Vectors to take over, as Parquet.")] = None,
    export: Annotated[Path | None, typer.Option("--export", help="Write the vectors as Parquet.")] = None,
    device: terminal.Device = "auto",
    as_json: terminal.AsJson = False,
) -> None:
    """Rank the recordings of a folder by their similarity to each QUERY; without one, only bring the index up to date.

    Vectors are kept in an index: the next call embeds only what is new or changed. A recording with the bytes of the
    query is left out. Exit code 0: all well; 1: an error that ends it; 2: wrong usage; 3: some recordings failed or are
    damaged.
    """
    names, where = _names(folder), _filters(folder, under, longer_than, shorter_than)
    where += _described(described, key, tempo, tag or [])
    parts = [_part(query) for query in queries]
    chosen = _layer(layer)
    terminal.check_device(device)
    from mert.collection.exchange import export_parquet, import_parquet
    from mert.collection.extraction import extract
    from mert.collection.index import folder_of

    path = folder_of(index or folder / INDEX)
    embedder = mert.load(model, revision=revision, device=device)
    held, settings = _opened(path, rebuild, embedder, chosen, window)
    if import_:
        import_parquet(held, import_)
    asked = list(extract(embedder, settings, [_extraction(held, *part) for part in parts]))
    errors = [query.error for query in asked if query.error]
    if asked and len(errors) == len(asked):
        raise errors[0]
    read = [query for query in asked if not query.error]
    _say_of_damage([query for query in read if query.warnings], terminal.console(stderr=True))
    n_damaged = _update(held, embedder, settings, folder, names, path, errors, rebuild)
    if not len(held):
        raise MertError(folder, f"none of its {len(names)} recordings can be read", "see the reasons above")
    if export:
        export_parquet(held, export)
    found = {query.name: held.query(query.vector, k, [query.stamp.sha256], where, not not_versions) for query in read}
    _say_of_lengths(held, longer_than, shorter_than)
    if where and found and not any(found.values()):
        terminal.console(stderr=True).print(f"no recording of {folder} passes the filters", markup=False)
    (_print_json if as_json else _print_tables)(held, folder, found, errors)
    raise typer.Exit(3 if errors or n_damaged or any(query.damaged for query in read) else 0)


def brought_up_to_date(folder: Path, embedder: mert.Embedder) -> mert.Index:
    """The index of a folder for the recommended layer of a model, as `mert similar FOLDER` leaves it."""
    from mert.collection.index import folder_of

    path, errors = folder_of(folder / INDEX), list[MertError]()
    held, settings = _opened(path, False, embedder, "recommended", None)
    _update(held, embedder, settings, folder, _names(folder), path, errors, False)
    return held


def _layer(layer: str) -> str | int:
    parsed = terminal.parse_layers(layer)
    chosen = [parsed] if isinstance(parsed, str) else parsed
    if chosen == ["all"] or len(chosen) != 1:
        raise UsageError(f"--layer {layer}", "not one layer", "give recommended, last, a number or a name")
    return chosen[0]


def _opened(
    path: Path, rebuild: bool, embedder: mert.Embedder, layer: str | int, window: str | None
) -> tuple[mert.Index, Settings]:
    """The index (a new one, where there is none), and how the model is to embed."""
    from mert.collection.extraction import resolve
    from mert.collection.vectors import index_facts, vector_options

    exists = path.exists() or path.with_name(f"{path.name}.npz").exists()
    held = mert.Index.load(path) if exists and not rebuild else None
    dtype = held.facts["dtype"] if held else "auto"  # an index may come from a machine of another kind
    settings = resolve(embedder, vector_options(layer, terminal.parse_window(window), dtype))
    facts = index_facts(embedder, settings)
    if held and (difference := held.difference(facts)):  # replacing hours of work must be asked for
        remedy = "give --index FOLDER for an index of its own, or --rebuild to replace this one"
        raise UsageError(path, f"was made with {difference}", remedy)
    return held or mert.Index(facts, embedder.centre(facts["layer"])), settings


def _names(folder: Path) -> list[str]:
    """Relative paths of the recordings below a folder, with / on every system."""
    from mert.audio.find import audio_under

    if not folder.is_dir():
        raise UsageError(folder, "is not a folder", "give QUERY... FOLDER: the folder to rank comes last")
    passed_over: Counter[str] = Counter()
    names = [path.relative_to(folder).as_posix() for path in audio_under(folder, passed_over)]
    if n := passed_over["unreadable folders"]:
        reason = "what the index has of recordings in them is removed; check their permissions"
        typer.echo(f"warning: {terminal.counted(n, 'folder')} below {folder} cannot be read: {reason}", err=True)
    if not names:
        raise UsageError(folder, f"no recordings among its {passed_over.total()} files", "give a folder of audio files")
    return names


def _filters(folder: Path, under: Path | None, longer_than: float | None, shorter_than: float | None) -> list[Filter]:
    """What recordings must pass to be shown."""
    from mert.collection import filters

    where: list[Filter] = []
    if under is not None:
        where.append(filters.under(_below(folder, under)))
    lengths = (longer_than or 0.0, float("inf") if shorter_than is None else shorter_than)
    if not 0 <= lengths[0] <= lengths[1]:
        raise UsageError(
            "--longer-than, --shorter-than", f"no length is from {lengths[0]:g} to {lengths[1]:g} s", "swap"
        )
    if longer_than is not None or shorter_than is not None:
        where.append(filters.within("seconds", *lengths))
    return where


def _below(folder: Path, under: Path) -> str:
    """The path of a folder below another, by the names on the way: links are followed in an index, too."""
    for path in (folder / under, under, under.resolve()):
        name = os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
        if path.is_dir() and Path(name).parts[:1] != (os.pardir,):
            return Path(name).as_posix()
    raise UsageError(f"--under {under}", f"is no folder below {folder}", "name one")


def _described(described: Path | None, key: str | None, tempo: str | None, tags: list[str]) -> list[Filter]:
    """What the descriptions of recordings must say."""
    from mert.collection import filters

    if not (key or tempo or tags):
        return []
    if described is None:
        remedy = "give --described DIR: what mert describe FOLDER -o DIR wrote"
        raise UsageError("--key, --tempo, --tag", "ask for what descriptions say", remedy)
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", tempo) if tempo else None
    if tempo and not numbers:
        raise UsageError(f"--tempo {tempo}", "is no range", "give beats a minute, as in 100-130")
    bpm = (float(numbers[1]), float(numbers[2])) if numbers else None
    return [filters.described(described, key, bpm, tags)]


def _part(query: str) -> tuple[Path, tuple[float, float] | None]:
    """A recording and the seconds of its part, if the query names one and no file has that name.

    >>> _part("song.mp3@60-75.5")
    (PosixPath('song.mp3'), (60.0, 75.5))
    """
    file, at, seconds = query.rpartition("@")
    if not at or Path(query).exists() or not (Path(file).exists() or re.fullmatch(r"[\d.:]+-[\d.:]*", seconds)):
        return Path(query), None
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", seconds)
    if not numbers or not float(numbers[1]) < float(numbers[2]):
        raise UsageError(query, f"@{seconds} is no part of a recording", "give its seconds, as in song.mp3@60-75")
    return Path(file), (float(numbers[1]), float(numbers[2]))


def _extraction(held: mert.Index, path: Path, part: tuple[float, float] | None) -> VectorExtraction:
    from mert.collection.vectors import PartExtraction, VectorExtraction

    return PartExtraction(path, held, *part) if part else VectorExtraction(path, held)


def _update(
    held: mert.Index, embedder: mert.Embedder, settings: Settings, folder: Path, names: list[str], path: Path,
    errors: list[MertError], rebuild: bool,
) -> int:  # fmt: skip
    """Embed new or changed files under a progress bar, save every minute and at the end, and print a summary.

    `errors` receives those of unreadable ones; the number of damaged ones is returned.
    """
    notes, n_asked, n_damaged = terminal.console(stderr=True), len(errors), 0
    waiting, gone = held.outdated(folder, names)
    with ExitStack() as stack:
        save = _saver(stack, held, path, notes, bool(waiting), rebuild)
        saved_at = time.monotonic()
        try:
            with terminal.progress(notes, disable=not waiting) as bar:
                updated, task = held.update(embedder, settings, folder, waiting), f"embedding, {held.facts['layer']}"
                for extraction in bar.track(updated, total=len(waiting), description=task):
                    if extraction.error:
                        errors.append(extraction.error)
                    elif extraction.damaged:
                        n_damaged += 1
                        _say_of_damage([extraction], bar.console)
                    if time.monotonic() - saved_at > SAVE_EVERY_S or held.n_waiting >= SAVE_EVERY_ROWS:
                        save(held.commit)
                        saved_at = time.monotonic()
        except BaseException:  # a stopped command continues from here
            save(held.commit)
            raise
        save(held.commit)
        if held.needs_graph:
            notes.print(f"adding to the graph of {len(held)} recordings by which they are found, which takes minutes")
        save(held.finish)
    for error in errors:
        notes.print(f"failed: {terminal.printable(str(error))}")
    made_by, n_new = f"{held.facts['model']}, {held.facts['layer']}", held.n_embedded
    of_them = f" ({n_damaged} damaged)" if n_damaged else ""
    notes.print(
        f"{made_by}: {n_new} embedded{of_them}, {len(held) - n_new} kept, {len(gone)} gone, "
        f"{len(errors) - n_asked} failed; {terminal.printable(str(path))}"
    )
    return n_damaged


def _say_of_damage(extractions: Sequence[Extraction], console: Console) -> None:
    """Print what is wrong with damaged or silent recordings."""
    for extraction in extractions:
        about = f"{extraction.name}: {'; '.join(extraction.warnings)}"
        console.print(f"{'damaged' if extraction.damaged else 'warning'}: {terminal.printable(about)}")


def _saver(
    stack: ExitStack, held: mert.Index, path: Path, notes: Any, has_work: bool, rebuild: bool
) -> Callable[[Callable[[], None]], None]:
    """What saves by `held.commit` or `held.finish`, while this process alone writes the index.

    A disk that refuses is reported once, and before the work: the ranking does not need the files.
    """
    refused = held.is_finished and not has_work

    def attempt(work: Callable[[], Any]) -> None:
        nonlocal refused
        try:
            if not refused:
                work()
        except OutputError as error:
            refused = True
            notes.print(f"the index will not be kept: {terminal.printable(str(error))}; or give --index FOLDER")

    attempt(lambda: stack.enter_context(held.kept_in(path, over=rebuild)))
    return attempt


def _say_of_lengths(held: mert.Index, *asked: float | None) -> None:
    """Say how many recordings a filter by length leaves out because their length is not known."""
    n = held.n_without("seconds") if asked != (None, None) else 0
    if n:
        counted = terminal.counted(n, "recording")
        reason = "the index is from a version that did not record lengths: give --rebuild"
        terminal.console(stderr=True).print(f"{counted} of unknown length left out; {reason}")


def _print_json(held: mert.Index, folder: Path, matches: dict[str, list[Match]], errors: list[MertError]) -> None:
    def ranked(found: list[Match]) -> list[dict[str, Any]]:
        return [
            {"rank": rank, "similarity": round(match.similarity, 6), "path": str(folder / match.name),
             "version": match.is_version}
            for rank, match in enumerate(found, 1)
        ]  # fmt: skip

    queries = [{"query": query, "matches": ranked(found)} for query, found in matches.items()]
    failed = [{"path": error.source, "error": str(error)} for error in errors]
    about = {"model": held.facts["model"], "layer": held.facts["layer"], "n_recordings": len(held)}
    typer.echo(json.dumps(about | {"queries": queries, "failed": failed}, indent=2))


def _print_tables(held: mert.Index, folder: Path, matches: dict[str, list[Match]], errors: list[MertError]) -> None:
    from rich.table import Column, Table
    from rich.text import Text

    for query, found in matches.items():
        table = Table(
            Column("rank", justify="right"), Column("similarity", justify="right"), Column("path", overflow="fold"),
            Column(""), title=Text(f"most like {terminal.printable(query)}"), title_justify="left", box=None,
        )  # fmt: skip
        for rank, match in enumerate(found, 1):
            path = Text(terminal.printable(str(folder / match.name)))
            table.add_row(str(rank), f"{match.similarity:.3f}", path, "version" if match.is_version else "")
        terminal.console().print(table, soft_wrap=False)
