"""The command `mert label`: the tags that a teacher finds in a corpus, as tables of labels to fit heads to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from mert.cli.teachers import Data, DataOptions, opened
from mert.cli.terminal import Device, check_device, progress
from mert.cli.train import teachers_explain
from mert.errors import UsageError

TABLES = {"MTT": "magnatagatune", "MSD": "millionsong"}


@teachers_explain()
def label(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the tables.", file_okay=False)],
    least: Annotated[float, typer.Option(min=0, max=1, help="Probability from which on a tag is a label.")] = 0.2,
    rate_hz: Annotated[int, typer.Option(min=16_000, help="Sample rate of the corpus.")] = 24_000,
    device: Device = "auto",
    data_options: DataOptions = None,
) -> None:
    """Write the tags of musicnn's two taggers for each recording of a corpus: magnatagatune.csv and millionsong.csv.

    `mert probe fit` reads them, with the probability of each tag, which heads learn. The taggers were trained with
    labels, on recordings of others: so is what is fitted.
    """
    import torch

    from mert.files import write_whole
    from mert.inference.runner import chosen_device
    from teachers.musicnn.teacher import TAG_NAMES, MusicnnTeacher

    check_device(device)
    teacher, corpus = MusicnnTeacher.installed(sample_rate=rate_hz), opened(data, rate_hz, data_options)
    place = chosen_device(device)
    rows: dict[str, list[tuple[str, ...]]] = {name: [] for name in TABLES}
    with progress(transient=True) as bar:
        for index in bar.track(range(len(corpus)), description="recordings"):
            wave_1N = torch.from_numpy(corpus.read(index, 0, int(corpus.lengths[index])).copy())[None].to(place)
            for name, probability_1P in teacher.tags(wave_1N).items():
                each = dict(zip(TAG_NAMES[name], probability_1P[0].tolist(), strict=True))
                chosen = ";".join(tag for tag, p in each.items() if p >= least)
                rows[name].append((corpus.name(index), chosen, *(f"{p:.4f}" for p in each.values())))
    if not len(corpus):
        raise UsageError(data, "holds no recordings", "give a corpus")
    for name, table in TABLES.items():
        with (
            write_whole(out / f"{table}.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows([("file", "tags", *TAG_NAMES[name]), *rows[name]])
        n_tags = sum(tags.count(";") + 1 for _, tags, *_ in rows[name] if tags)
        typer.echo(f"{out / table}.csv: {len(corpus)} recordings, {n_tags / len(corpus):.1f} tags each")
