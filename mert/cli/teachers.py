"""The commands about what a model must predict: `mert fit-teacher` and `mert tokenize`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mert.cli.terminal import Device, Executor, Overwrite, check_device, counted, printable, progress
from mert.cli.train import teachers_explain
from mert.errors import AudioError, UsageError, need

if TYPE_CHECKING:
    import numpy as np
    from rich.progress import Progress

    from mert.train.corpus.base import Corpus
    from mert.train.tokenize import TokenizeStage

Data = Annotated[str, typer.Argument(help="A folder, manifest, store, hf:NAME, synth or sampled.")]
DataOptions = Annotated[
    list[str] | None, typer.Option("--data-option", "-O", help="key=value of hf: or synth, such as split=train.")
]


@teachers_explain()
def fit_teacher(
    name: Annotated[str, typer.Argument(help="kmeans, mel_rvq, random_projection or encodec_small.")],
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the teacher.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value of the teacher.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Maximum number of recordings to fit to.")] = 1000,
    rate_hz: Annotated[int, typer.Option(min=1000, help="Sample rate.")] = 24_000,
    device: Device = "auto",
    data_options: DataOptions = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit a teacher on a sample of a corpus."""
    from mert.inference.runner import chosen_device
    from mert.train.recipe import parse_override
    from teachers import Fitting
    from teachers import fit_teacher as fit
    from teachers.registry import settings_of

    if (out / "teacher.json").exists() and not overwrite:
        reason = "holds a teacher, on which runs and label stores may depend"
        raise UsageError(out, reason, "give another -o, or --overwrite to replace it")
    values = dict(map(parse_override, settings or []))
    if "sample_rate" in settings_of(name):
        values.setdefault("sample_rate", rate_hz)
    if (asked := values.get("sample_rate", rate_hz)) != rate_hz:
        reason = f"is asked for {asked} Hz, and the music comes at {rate_hz} Hz"
        raise UsageError(f"teacher {name}", reason, f"give --rate-hz {asked}")
    check_device(device)
    corpus = opened(data, rate_hz, data_options)
    with progress(transient=True) as bar:
        teacher = fit(name, readable(Pieces(corpus, clips), bar), Fitting(chosen_device(device), bar.track), **values)
    if teacher.sample_rate != rate_hz:
        reason = f"works at {teacher.sample_rate} Hz, and the music came at {rate_hz} Hz"
        raise UsageError(f"teacher {name}", reason, f"give --rate-hz {teacher.sample_rate}")
    teacher.save(out)
    typer.echo(f"{out}: {name}, {teacher.n_classes} classes, fingerprint {teacher.fingerprint[:12]}")


class Pieces(Sequence["np.ndarray"]):
    """At most so many recordings, evenly from a corpus, in pieces of at most a minute, each read when it is needed."""

    def __init__(self, corpus: Corpus, clips: int) -> None:
        from teachers.clustering import PIECE_S

        self.corpus, n = corpus, PIECE_S * corpus.rate_hz
        chosen = range(0, len(corpus), -(-len(corpus) // clips))
        self.places = [
            (index, start, min(n, length - start))
            for index, length in zip(chosen, corpus.lengths[chosen].tolist(), strict=True)
            for start in range(0, length, n)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: Any) -> Any:
        return self.corpus.read(*self.places[number])


def readable(pieces: Pieces, bar: Progress) -> Iterator[np.ndarray]:
    """The pieces of recordings that can be read; a line names each of the others, once."""
    left_out: set[int] = set()
    for number in bar.track(range(len(pieces)), description="reading"):
        if (index := pieces.places[number][0]) in left_out:
            continue
        try:
            wave_N = pieces[number]
        except AudioError as error:
            left_out.add(index)
            bar.console.print(f"left out: {printable(str(error))}")
            continue
        yield wave_N


@teachers_explain()
def tokenize(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the label store.")],
    teacher: Annotated[str, typer.Option(help="A fitted teacher's folder, or a name.")],
    executor: Annotated[Executor, typer.Option(help="Where the work runs.")] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes, or Ray actors.")] = 1,
    rate_hz: Annotated[int, typer.Option(min=1000, help="Sample rate of a teacher given by name.")] = 24_000,
    device: Device = "auto",
    data_options: DataOptions = None,
) -> None:
    """Compute the targets of a corpus once; training reads them with teachers=STORE. Run it again to resume."""
    from torch import from_numpy

    from mert.train.recipe import parse_override
    from mert.train.tokenize import TokenizeOptions
    from mert.train.tokenize import tokenize as shards
    from teachers.base import perplexity

    if executor == "local":
        check_device(device)
    quiet_datasets(data)
    options = TokenizeOptions(data, teacher, str(out), dict(map(parse_override, data_options or [])), device, rate_hz)
    counts: Any = 0
    with progress() as bar:
        task = bar.add_task("opening the corpus", total=None)

        def on_start(stage: TokenizeStage) -> None:
            recordings = counted(len(stage.corpus), "recording")
            bar.update(task, total=stage.n_shards, description=f"shards of {recordings}")

        for counts_KC in shards(options, executor, workers, on_start):
            counts = counts + counts_KC
            bar.advance(task)
    for k, counts_C in enumerate(counts):
        in_use = perplexity(from_numpy(counts_C).double())
        typer.echo(f"codebook {k}: {counts_C.sum()} codes, {(counts_C > 0).sum()} distinct, perplexity {in_use:.1f}")


def opened(data: str, rate_hz: int, data_options: list[str] | None) -> Corpus:
    """The recordings of at least a second in a corpus."""
    from mert.train.corpus.opening import open_corpus
    from mert.train.recipe import parse_override

    quiet_datasets(data)
    return open_corpus(data, rate_hz, rate_hz, dict(map(parse_override, data_options or [])))


def quiet_datasets(data: str) -> None:
    """Switch off the bars of the datasets library, if data comes by it: the command shows its own."""
    if data.startswith("hf:"):
        need("datasets", "train", data).disable_progress_bars()
