"""`mert tokenize`: the targets of a whole corpus into a label store, shard by shard; a stopped job can be run again.

Shapes: K codebooks, T frames, C classes, W numbers of a frame.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from mert.collection.shards import run_numbered
from mert.errors import AudioError, MertError, UsageError
from mert.files import read_json, write_json, write_whole
from mert.inference.runner import chosen_device
from mert.train.corpus.base import Corpus
from mert.train.corpus.opening import open_corpus
from teachers import Teacher, load_teacher
from teachers.base import CodeTeacher
from teachers.labels import (
    CODEBOOKS,
    DESCRIPTION,
    INDEX,
    MAX_CLASSES,
    VERSION,
    add_counts,
    describe,
    kind_of,
    read_shard,
    shard_name,
    write_index,
    write_shard,
)  # fmt: skip

SHARD_RECORDINGS = 64


@dataclass(frozen=True)
class TokenizeOptions:
    """The options of a job: plain values that travel between processes."""

    data: str
    teacher: str
    out: str
    data_options: dict[str, Any]
    device: str = "cpu"
    rate_hz: int = 24_000  # of a teacher that is made by its name


class TokenizeStage:
    """Computes one shard per call: `stage(number)` writes it if it is missing; returns its code counts, K lists of C.

    For codes, recordings are read in pieces, so that their length is not limited by memory; other targets are those of
    the recording as a whole. UsageError for a label store in the place of a teacher.
    """

    def __init__(self, options: TokenizeOptions) -> None:
        self.options, self.out = options, Path(options.out)
        self.kind, rate_hz = kind_of(self.teacher), self.teacher.sample_rate
        if (most := max(self.teacher.n_classes, default=0)) > MAX_CLASSES:
            raise UsageError(options.teacher, f"has {most} classes", f"fit one with at most {MAX_CLASSES}")
        self.corpus: Corpus = open_corpus(options.data, rate_hz, rate_hz, options.data_options)
        self.n_shards = -(-len(self.corpus) // SHARD_RECORDINGS)

    def __getstate__(self) -> dict[str, Any]:
        """All but the teacher, which each process loads: torch would pass a file descriptor for each of its tensors."""
        return {name: value for name, value in vars(self).items() if name not in ("teacher", "device")}

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher that the options name."""
        teacher = load_teacher(self.options.teacher, self.options.rate_hz)
        if not isinstance(teacher, Teacher):
            raise UsageError(self.options.teacher, "is a label store", "name the teacher itself")
        return teacher

    @cached_property
    def device(self) -> torch.device:
        """Chosen where targets are computed: who sends work to Ray may have no GPU."""
        return chosen_device(self.options.device)

    def __call__(self, number: int) -> list[list[int]]:
        path = self.out / shard_name(number)
        if not path.exists():
            self._write(path, number)
        rows, n_codebooks = read_shard(path, self.kind), len(self.teacher.n_classes)
        counts_KC = np.zeros((n_codebooks, max(self.teacher.n_classes, default=0)), np.int64)
        for row, hash_64 in enumerate(rows.hash_R):
            values_N = rows.checked_values(row, hash_64, path)
            if n_codebooks:
                add_counts(counts_KC, values_N.reshape(-1, n_codebooks))
        return [counts_C.tolist() for counts_C in counts_KC]

    def _write(self, path: Path, number: int) -> None:
        first = number * SHARD_RECORDINGS
        rows = [self._row(index) for index in range(first, min(len(self.corpus), first + SHARD_RECORDINGS))]
        with write_whole(path) as temporary:
            write_shard(temporary, rows, self.kind)

    def _row(self, index: int) -> tuple[str, int, np.ndarray]:
        """Name, samples and targets [T, W] of a recording."""
        n_samples = int(self.corpus.lengths[index])
        try:
            values_TW = self._values(index, n_samples)
        except AudioError as error:
            remedy = "take it out of the corpus, or tokenize a store: mert prepare leaves such recordings out"
            raise AudioError(self.corpus.name(index), error.reason, remedy) from error
        return self.corpus.name(index), n_samples, values_TW

    def _values(self, index: int, n_samples: int) -> np.ndarray:
        """Codes [T, K] or frames [T, F] of a recording, or the numbers [1, P] of it as a whole."""
        if isinstance(self.teacher, CodeTeacher):
            read = partial(self.corpus.read, index)
            codes_TK = self.teacher.recording_codes(read, n_samples, self.device).numpy().T
            if (codes_TK < 0).any() or (codes_TK >= np.array(self.teacher.n_classes)).any():
                raise MertError(self.corpus.name(index), "its codes are out of range", "fit the teacher again")
            return codes_TK
        wave_1N = torch.from_numpy(self.corpus.read(index, 0, n_samples).copy())[None]
        targets = self.teacher.targets(wave_1N.to(self.device))
        values_TW = targets.clips if targets.frames is None else targets.frames[0]
        assert values_TW is not None
        if not torch.isfinite(values_TW).all():
            raise MertError(self.corpus.name(index), "its targets are not finite", "take it out of the corpus")
        return values_TW.cpu().numpy()


def tokenize(
    options: TokenizeOptions, executor: str = "local", workers: int = 1,
    on_start: Callable[[TokenizeStage], None] = lambda stage: None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Write a label store; yields the code counts [K, C] of each shard. The store is complete after the last.

    `on_start` receives the stage, with teacher and corpus, before any work begins. UsageError if the folder holds a
    store of another teacher or corpus.
    """
    stage = TokenizeStage(options)
    on_start(stage)
    about = describe(stage.teacher, stage.corpus.fingerprint, stage.n_shards)
    path = stage.out / DESCRIPTION
    if path.exists() and (old := read_json(path)) != about:
        of_another = "is the store of another teacher or corpus"
        reason = (
            of_another if old.get("version") == VERSION else "is a store of another version, which is read as it is"
        )
        raise UsageError(path, reason, "choose another -o")
    with write_whole(stage.out / CODEBOOKS) as temporary:
        codebooks = enumerate(stage.teacher.codebooks())
        save_file({str(k): codebook_CD.contiguous().cpu() for k, codebook_CD in codebooks}, temporary)
    write_json(path, about)
    for counts in run_numbered(stage, stage.n_shards, executor, workers, options.device):
        yield np.asarray(counts)
    with write_whole(stage.out / INDEX) as temporary:
        write_index(temporary, stage.out, stage.n_shards, stage.kind)
