"""The command `mert describe`: names, key, tempo and beats of recordings, printed, or as files and a table."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from mert.cli import terminal
from mert.cli.jobs import Meter, expected_seconds, follow
from mert.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from mert.collection.describing import DescribeStage
    from mert.collection.plan import Job

TABLE = "descriptions.csv"


def describe(
    inputs: Annotated[list[Path], typer.Argument(help="Audio files and folders.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for a JSON file each, and a table.", file_okay=False)
    ] = None,
    model: terminal.Model = terminal.DEFAULT,
    revision: terminal.Revision = None,
    heads: Annotated[list[Path] | None, typer.Option(help="A head of yours, or a folder of several.")] = None,
    every: Annotated[float | None, typer.Option(min=0, help="Describe sections of so many seconds, too.")] = None,
    device: terminal.Device = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes (local) or actors (ray).")] = 1,
    executor: Annotated[terminal.Executor, typer.Option(help="Where the work runs.")] = "local",
    max_seconds: Annotated[float | None, typer.Option(min=0, help="Refuse recordings longer than this.")] = None,
    as_json: terminal.AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table.")] = False,
    overwrite: terminal.Overwrite = False,
) -> None:
    """Describe recordings by the heads of a model: tags, instruments, key, tempo, beats, if probable enough.

    A head that is sure may be wrong on sound unlike what it was fitted on: the card of the model and head.json say what
    that was. In those of mert-nano, magnatagatune and millionsong are two vocabularies of tags.

    With -o, files that are up to date are kept, so the same command goes on after a stop. Exit code 0: all well; 1:
    an error that ends it; 2: wrong usage; 3: some files failed or are damaged.
    """
    from mert.audio.find import listed
    from mert.collection.describing import DescribeOptions
    from mert.collection.executors import run
    from mert.collection.plan import plan

    if sum((as_json, as_csv, out is not None)) > 1:
        raise UsageError("--json, --csv, -o", "are ways to write the same", "give one")
    if executor == "ray" and ":" in device:
        raise UsageError(f"--device {device}", "Ray gives each actor a GPU of its own", "give cuda or auto")
    terminal.check_device(device)
    planned = plan(inputs, out, suffix=".json")
    jobs = planned.jobs
    options = DescribeOptions(
        model, heads=tuple(map(str, heads or [])), every_s=every, revision=revision, device=device,
        max_seconds=max_seconds,
    )  # fmt: skip
    meter = Meter(jobs, expected_seconds(jobs)[0])

    def on_start(stage: DescribeStage) -> None:
        if out and not overwrite:
            refuse_other_files(stage, jobs)
        stage.on_audio = meter.add

    rows = run(jobs, options, executor, workers, on_start)
    if out:
        out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        shown = stack.enter_context(Shown(jobs, out, as_json, as_csv))
        report = out / "report.jsonl" if out else None
        counts = follow(rows, meter, report, False, listed(planned.passed_over), "described", shown.take)
    raise typer.Exit(3 if any(counts[what] for what in ("failed", "damaged", "unreported", "lost")) else 0)


def refuse_other_files(stage: DescribeStage, jobs: Sequence[Job]) -> None:
    """UsageError where an output that is there is no description, or one by another model."""
    from mert.describe.description import MADE_BY
    from mert.files import read_json

    remedy = "give another -o, or --overwrite to replace it"
    for job in jobs:
        try:
            held = read_json(Path(job.output))
        except CheckpointError:  # none yet, or damaged
            continue
        made_by = held.get(MADE_BY)
        if not isinstance(made_by, dict):
            raise UsageError(job.output, "is no description of mert describe", remedy)
        if made_by.get("weights_sha256") != stage.made_by["weights_sha256"]:
            raise UsageError(job.output, "is a description by another model", remedy)


class Shown:
    """Takes rows as they come, and prints their descriptions for people or as JSON, or writes a table in the end.

    The table is in the order of the jobs, whatever the order in which they end, and has the columns of all rows; that
    of a folder has the other descriptions in it, too.
    """

    def __init__(self, jobs: Sequence[Job], out: Path | None, as_json: bool, as_csv: bool) -> None:
        self._jobs, self._out, self._as_json, self._as_csv = jobs, out, as_json, as_csv
        self._cells: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Shown:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None and self._cells:
            rows = [self._cells[job.source] for job in self._jobs if job.source in self._cells] + self._before()
            with table_in(self._out) as file:
                table = csv.DictWriter(file, list(dict.fromkeys(chain(*rows))), restval="", lineterminator="\n")
                table.writeheader()
                table.writerows(rows)

    def _before(self) -> list[dict[str, str]]:
        """Rows of the descriptions that earlier runs left in the folder."""
        from mert.describe.description import MADE_BY, columns
        from mert.files import read_json

        rows, outputs = [], {Path(job.output) for job in self._jobs}
        for path in sorted(self._out.rglob("*.json")) if self._out else ():
            if path not in outputs:
                with suppress(CheckpointError, KeyError, TypeError, AttributeError):  # another JSON file
                    described = read_json(path)
                    described.pop(MADE_BY)
                    rows.append(columns(described))
        return rows

    def take(self, row: dict[str, Any]) -> None:
        """Take the description of a row, which loses it: reports have no copies."""
        from mert.describe.description import columns, facts

        described = row.pop("description", None)
        if described is None:
            return
        if self._out or self._as_csv:
            self._cells[row["source"]] = columns(described)
        elif self._as_json:
            typer.echo(json.dumps(described))
        else:
            typer.echo(terminal.printable(described["file"]))
            for name, text in facts(described):
                typer.echo(terminal.printable(f"  {name:<17} {text}"))


@contextmanager
def table_in(folder: Path | None) -> Iterator[TextIO]:
    """The table of a folder, which is there once the block ends well; without a folder it is printed."""
    from mert.files import write_whole

    if folder is None:
        yield sys.stdout
        return
    with (
        write_whole(folder / TABLE) as temporary,
        open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield file
