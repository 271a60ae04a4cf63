"""The commands about data: `prepare` for the corpora of tasks, `synth` and `recordings` for music to train on."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from mert.cli.terminal import console, progress, usage_errors
from mert.errors import UsageError
from mir_benchmarks.cli.options import tasks_of


def prepare(
    tasks: Annotated[str, typer.Argument(help='"all", or names: gtzan_genre,emomusic.')],
    data_home: Annotated[Path, typer.Option(help="Folder with a folder for each corpus.")],
    check: Annotated[bool, typer.Option("--check", help="Read the header of every recording; runs no model.")] = False,
    decode: Annotated[
        bool, typer.Option("--decode", help="With --check: decode everything, which takes long.")
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", help="With --check: hash all files to find the same one in two splits.")
    ] = False,
    n_shown: Annotated[int, typer.Option("--most", min=1, help="Findings shown of each kind.")] = 10,
) -> None:
    """Say what to download for tasks and where to put it; with --check, what is missing, empty or damaged there."""
    if (decode or duplicates) and not check:
        raise UsageError("mert bench prepare", "--decode and --duplicates need --check", "add --check")
    chosen = tasks_of(tasks)
    if not check:
        for corpus, get in {task.corpus: task.get for task in chosen}.items():
            there = " (a folder is there: --check looks into it)" if (data_home / corpus).is_dir() else ""
            typer.echo(f"{data_home / corpus}{there}\n  {get}")
        return
    from mir_benchmarks.tasks import check as checks

    with progress(transient=True) as bar:
        row, names = bar.add_task("check recordings", total=None), [task.name for task in chosen]
        report = checks.check(
            data_home, names, decode, duplicates, lambda done, total: bar.update(row, completed=done, total=total)
        )
    for line in (*report.lines(n_shown), "ready" if report.ok else "not ready"):
        typer.echo(line)
    if not report.ok:
        sys.exit(1)


def synth(
    hours: Annotated[float, typer.Argument(help="Hours of music to have in the folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder, or one to continue.", file_okay=False)],
    seed: Annotated[int, typer.Option(min=0, help="Another seed is other music.")] = 0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a clip.")] = 10.0,
    rate_hz: Annotated[int, typer.Option(min=8_000, max=192_000, help="Sample rate.")] = 24_000,
    purpose: Annotated[
        Literal["train", "bench", "valid", "test"],
        typer.Option(help="train and bench (sampled: train, valid and test) share no piece."),
    ] = "train",
    audio_format: Annotated[Literal["flac", "wav"], typer.Option("--format", help="Of the files, 16 bits.")] = "flac",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    sampled: Annotated[
        bool, typer.Option("--sampled", help="Sampled instruments and real scores: data=sampled.")
    ] = False,
    kinds: Annotated[str, typer.Option(help="Of sampled clips, with commas: notes,solo; default: all.")] = "",
    borrowed: Annotated[
        float, typer.Option(help="Share of sampled instruments with other timbres: samples of other keys.")
    ] = 0.0,
) -> None:
    """Write the music of data=synth (or sampled) with its scores. Run it again to continue, or for more hours."""
    from mir_benchmarks.synth.write import open_folder, write_hours

    options = {name: value for name, value in (("kinds", kinds), ("borrowed", borrowed)) if value}
    with usage_errors("bench synth"):
        corpus = open_folder(out, hours, seed, seconds, rate_hz, purpose, audio_format, sampled, options)
    lines, n_clips, n_rendered = console(), len(corpus), 0
    with progress(lines) as bar:
        clips = bar.add_task("clips", total=n_clips)

        def on_progress(rendered: bool) -> None:
            nonlocal n_rendered
            n_rendered += rendered
            bar.advance(clips)

        scores = write_hours(
            hours, out, seed, workers, seconds=seconds, rate_hz=rate_hz, purpose=purpose, suffix=audio_format,
            sampled=sampled, options=options, on_progress=on_progress,
        )  # fmt: skip
    lines.print(
        f"{n_clips} clips of {seconds:g} s ({n_clips * seconds / 3600:.4g} h) at {rate_hz} Hz: {n_rendered} written, "
        f"{n_clips - n_rendered} kept; scores: {scores}"
    )


def labels(
    scores: Annotated[Path, typer.Argument(help="What `mert bench synth` wrote: scores.jsonl.", dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables.", file_okay=False)],
) -> None:
    """Write key, instruments, voice, beats and downbeats of rendered music as tables for mert probe fit."""
    from mert.files import read_rows
    from mir_benchmarks.synth.labels import write_labels

    if not (rows := read_rows(scores)):
        raise UsageError(scores, "holds no scores", "give the scores.jsonl that mert bench synth wrote")
    for name, n in write_labels(rows, out).items():
        typer.echo(f"{out / name}.csv: {n} clips")


def recordings(
    out: Annotated[Path, typer.Option("--out", "-o", help="Manifest to write (.jsonl).")],
    split: Annotated[Literal["train", "test"], typer.Option(help="Test recordings are not for training.")] = "train",
) -> None:
    """List the free recordings in installed Debian packages of soundtracks, with licences: a manifest for data=OUT."""
    import json

    from mert.files import write_whole
    from mir_benchmarks.datasets.packages import SOUNDTRACKS, free_recordings, rows

    lines = rows(free_recordings(SOUNDTRACKS), split)
    with write_whole(out) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    hours = sum(float(str(line["seconds"])) for line in lines) / 3600
    typer.echo(f"{out}: {len(lines)} recordings, {hours:.2f} h, of {', '.join(SOUNDTRACKS)}")
