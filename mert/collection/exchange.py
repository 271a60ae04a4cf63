"""An index as Parquet, which datasets and duckdb read: a row per recording, written and read a block at a time.

Shapes: N recordings, D model width.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mert.collection.index import Index
from mert.collection.old_index import lacking_facts
from mert.errors import OutputError, UsageError, need
from mert.files import write_whole

COLUMNS = ("file", "sha256", "encoder_sha256", "layer", "pool", "vector")
FACTS = b"mert-index"  # key of the facts of the index in the metadata of the file
GROUP = 16_384  # recordings that are in memory at once


def export_parquet(index: Index, path: str | Path) -> int:
    """Write the recordings an index holds, whole or not at all; returns how many.

    `vector` is float32 [D], not centred. MertError without pyarrow (extra `probe`).
    """
    pyarrow, parquet = need("pyarrow", "probe", str(path)), need("pyarrow.parquet", "probe", str(path))
    text, vector = pyarrow.string(), pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema(
        [(name, vector if name == "vector" else text) for name in COLUMNS], {FACTS: json.dumps(index.facts).encode()}
    )
    n = 0
    with write_whole(Path(path)) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for names, sha256s, vectors_ND in index.recordings(GROUP):
            offsets = np.arange(len(names) + 1, dtype=np.int32) * vectors_ND.shape[1]
            same = (index.facts["weights_sha256"], index.facts["layer"], "mean")
            columns = [
                [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names],
                sha256s, *([value] * len(names) for value in same),
                pyarrow.ListArray.from_arrays(offsets, vectors_ND.ravel()),
            ]  # fmt: skip
            writer.write_table(pyarrow.table(columns, schema=schema))
            n += len(names)
    return n


def import_parquet(index: Index, path: str | Path) -> int:
    """Have the vectors of a file at hand, by the SHA-256 of their recordings; returns how many were not known.

    A recording of these bytes, whatever its name, is then not embedded. OutputError for a file that lacks a column or
    holds what is no vector; UsageError where the vectors are of another model, layer or pooling. Facts of extraction
    beyond these are compared where the file has them.
    """
    pyarrow, parquet = need("pyarrow", "probe", str(path)), need("pyarrow.parquet", "probe", str(path))
    try:
        with parquet.ParquetFile(path) as file:
            if lacking := [name for name in COLUMNS if name not in file.schema_arrow.names]:
                raise _unusable(path, f"no column {', '.join(lacking)}")
            _check_facts(index, path, (file.schema_arrow.metadata or {}).get(FACTS))
            return sum(_take(index, path, batch) for batch in file.iter_batches(GROUP, columns=list(COLUMNS)))
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        if isinstance(error, UsageError):
            raise
        raise _unusable(path, f"{type(error).__name__}: {error}") from None


def _unusable(path: str | Path, reason: str) -> OutputError:
    remedy = "give a Parquet file with " + ", ".join(COLUMNS)
    return OutputError(path, f"holds no vectors to import ({reason})", remedy)


def _check_facts(index: Index, path: str | Path, metadata: bytes | None) -> None:
    facts = json.loads(metadata) if metadata else None
    if isinstance(facts, dict) and not lacking_facts(facts) and (difference := index.difference(facts)):
        raise UsageError(path, f"has other vectors than the index, which was made with {difference}", "embed anew")


def _take(index: Index, path: str | Path, batch: object) -> int:
    columns = {name: batch.column(name) for name in COLUMNS}  # type: ignore[attr-defined]
    wanted = {"encoder_sha256": index.facts["weights_sha256"], "layer": index.facts["layer"], "pool": "mean"}
    for name, value in wanted.items():
        if strange := set(columns[name].unique().to_pylist()) - {value}:
            raise UsageError(path, f"{name} is {strange.pop()}, that of the index is {value}", "embed anew")
    vectors_ND = np.array(columns["vector"].to_pylist(), np.float32)
    width = index.centre.size or vectors_ND.shape[-1]
    if len(vectors_ND) and (vectors_ND.ndim != 2 or vectors_ND.shape[1] != width or not np.isfinite(vectors_ND).all()):
        raise ValueError(f"vectors are not {width} finite numbers each")
    n = 0
    for sha256, vector_D in zip(columns["sha256"].to_pylist(), vectors_ND, strict=True):
        if len(bytes.fromhex(sha256)) != 32:
            raise ValueError(f"{sha256!r} is no SHA-256")
        if not index.knows(sha256):
            index.lay_by(sha256, vector_D)
            n += 1
    return n
