"""Label stores: the codes of a corpus, computed once, as parquet shards beside a description of their teacher.

`store.json` describes the teacher; rows of `shard-00000.parquet` hold the name of a recording, its samples at the
teacher's rate, and its codes, frame after frame; `codebooks.safetensors` the codewords (keys "0", "1", ...; [C, D]).
Shapes: B crops, N samples, K codebooks, T frames.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from teachers.base import FIELD, Crop, Targets, TargetSource, Teacher, TeacherError, require

DESCRIPTION = "store.json"
CODEBOOKS = "codebooks.safetensors"
AGAIN = "remove it, and run the same mert tokenize again"


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.parquet"


def describe(teacher: Teacher, corpus_fingerprint: str, n_shards: int) -> dict[str, Any]:
    """The contents of `store.json`."""
    return {
        "format": "mert-labels", "teacher": teacher.name, "fingerprint": teacher.fingerprint,
        "licence": teacher.licence, "sample_rate": teacher.sample_rate, "rate_hz": teacher.rate_hz,
        "n_classes": list(teacher.n_classes), "corpus": corpus_fingerprint, "n_shards": n_shards,
    }  # fmt: skip


class LabelStore(TargetSource):
    """A finished store, as a source of targets in its teacher's place.

    TeacherError if it is not finished, is damaged, or has codes out of the range of `n_classes`.
    """

    n_bins = 0

    def __init__(self, folder: str | Path) -> None:
        parquet = require("pyarrow.parquet", folder, "train")
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
            self.name, self.fingerprint, self.licence = about["teacher"], about["fingerprint"], about["licence"]
            self.sample_rate, self.rate_hz = int(about["sample_rate"]), float(about["rate_hz"])
            self.n_classes, n_shards = tuple(map(int, about["n_classes"])), int(about["n_shards"])
            if not self.n_classes or min(self.n_classes) < 1:
                raise ValueError("n_classes names no classes")
            if not 0 < self.rate_hz <= self.sample_rate or not 0 <= n_shards < 100_000:
                raise ValueError("its rates, or its shards, are out of range")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TeacherError(folder, f"is no label store ({error})", "make one: mert tokenize") from None
        self._rows: dict[str, tuple[int, np.ndarray]] = {}
        for number in range(n_shards):
            shard = self.folder / shard_name(number)
            for name, n_samples, codes_N in self._read(parquet, shard):
                codes_KT = self._checked(n_samples, codes_N, f"{shard}: {name}")
                first = self._rows.setdefault(name, (n_samples, codes_KT))
                if not np.array_equal(first[1], codes_KT):
                    reason = f"{name} is the name of two recordings"
                    raise TeacherError(shard, reason, "give each a name of its own, and " + AGAIN)

    def _read(self, parquet: Any, shard: Path) -> Iterator[tuple[str, int, np.ndarray]]:
        """Name, samples and codes of each row; as arrays, since Python's integers take sixteen times their memory."""
        try:
            with parquet.ParquetFile(shard) as file:
                for batch in file.iter_batches(batch_size=16, columns=["name", "n_samples", "codes"]):
                    names, n_samples, codes = (batch.column(name) for name in ("name", "n_samples", "codes"))
                    for i in range(len(batch)):
                        yield str(names[i]), int(n_samples[i].as_py()), codes[i].values.to_numpy(zero_copy_only=False)
        except FileNotFoundError:
            raise TeacherError(shard, "is missing", "run the same mert tokenize again") from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise TeacherError(shard, f"is damaged ({error})", AGAIN) from None

    def _checked(self, n_samples: int, codes_N: np.ndarray, source: str) -> np.ndarray:
        """Codes int16 [K, T] of a row; TeacherError if its samples need more, or one is out of range."""
        n_frames, over = divmod(len(codes_N), len(self.n_classes))
        stride = round(self.sample_rate / self.rate_hz)
        if over or n_frames < (n_samples - FIELD) // stride + 1:
            raise TeacherError(source, f"{len(codes_N)} codes for {n_samples} samples", AGAIN)
        if codes_N.dtype.kind not in "iu":
            raise TeacherError(source, "has codes that are no whole numbers, or none", AGAIN)
        codes_KT = codes_N.reshape(n_frames, -1).T
        for k, (codes_T, n) in enumerate(zip(codes_KT, self.n_classes, strict=True)):
            if len(codes_T) and not 0 <= codes_T.min() <= codes_T.max() < n:
                worst = codes_T[(codes_T < 0) | (codes_T >= n)][0]
                raise TeacherError(source, f"code {worst} of codebook {k} is not below {n}", AGAIN)
        return codes_KT.astype(np.int16)

    def __len__(self) -> int:
        return len(self._rows)

    def crop_targets(self, wave_BN: Tensor, crops: Sequence[Crop], n_frames: int) -> Targets:
        """The stored codes of the crops, int64 [B, K, T]."""
        rows = [self.codes(crop.recording, crop.n_samples, crop.frame, n_frames) for crop in crops]
        codes_BKT = torch.from_numpy(np.stack(rows).astype(np.int64)).to(wave_BN.device)
        return Targets(codes_BKT, None, self.rate_hz, self.fingerprint)

    def check_recordings(self, recordings: Iterable[tuple[str, int]]) -> None:
        """TeacherError if one of these recordings (name, samples) has no codes, or had another length."""
        for name, n_samples in recordings:
            self.codes(name, n_samples, 0, 0)

    def codebooks(self) -> list[Tensor]:
        path = self.folder / CODEBOOKS
        try:
            codewords = load_file(path) if path.exists() else {}
        except (OSError, SafetensorError) as error:
            raise TeacherError(path, f"is damaged ({error})", "run the same mert tokenize again") from None
        return [codewords[str(k)] for k in range(len(codewords))]

    def counts(self) -> np.ndarray:
        """The number of occurrences of each code: int64 [K, C], C being the size of the largest codebook."""
        counts_KC = np.zeros((len(self.n_classes), max(self.n_classes)), np.int64)
        for _, codes_KT in self._rows.values():
            counts_KC += np.stack([np.bincount(codes_T, minlength=counts_KC.shape[1]) for codes_T in codes_KT])
        return counts_KC

    def codes(self, name: str, n_samples: int, first: int, n_frames: int) -> np.ndarray:
        """Codes int16 [K, T] of a recording from frame `first` on; TeacherError if it is another recording."""
        if name not in self._rows:
            raise TeacherError(self.folder, f"has no codes of {name}", "tokenize this corpus")
        stored, codes_KT = self._rows[name]
        if stored != n_samples:
            reason = f"{name} has {n_samples} samples, and had {stored} when its codes were made"
            raise TeacherError(self.folder, reason, "tokenize this corpus again")
        return codes_KT[:, first : first + n_frames]
