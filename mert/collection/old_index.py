"""The index of older versions, one `.npz` that was read whole: read, so that its vectors are carried over.

Shapes: N recordings, D model width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mert.collection.columns import damaged
from mert.collection.vectors import Stamp
from mert.embedding.features import Provenance
from mert.embedding.npz import read_npz
from mert.errors import OutputError

SCHEMA = 1
KEYS = ("names", "sizes", "mtimes_ns", "sha256", "vectors", "meta")


def read_old(path: Path) -> tuple[dict[str, Any], list[tuple[str, Stamp, np.ndarray]]]:
    """The facts of an index, and its recordings: name, stamp, float32 vector [D]; OutputError if it is damaged."""
    try:
        arrays = read_npz(path, KEYS)
        facts = json.loads(str(arrays["meta"]))
        if (facts.pop("format"), facts.pop("schema")) != ("mert-index", SCHEMA):
            raise ValueError(f"not of format mert-index, schema {SCHEMA}")
        if lacking := lacking_facts(facts):
            raise ValueError(f"no {', '.join(lacking)}")
        return facts, list(_recordings(arrays))
    except (OutputError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        reason = error.reason if isinstance(error, OutputError) else f"{type(error).__name__}: {error}"
        raise damaged(path, reason) from None


def lacking_facts(facts: Mapping[str, Any]) -> list[str]:
    """What the facts of an index of any version record, and these do not."""
    return Provenance.missing(facts) + ([] if "layer" in facts else ["layer"])


def _recordings(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, Stamp, np.ndarray]]:
    names, vectors_ND = arrays["names"], arrays["vectors"]
    if vectors_ND.ndim != 2 or not np.isfinite(vectors_ND).all():
        raise ValueError("its vectors are not finite numbers [N, D]")
    columns = (names, arrays["sizes"], arrays["mtimes_ns"], arrays["sha256"], vectors_ND)
    for name, size, mtime_ns, sha256, vector_D in zip(*columns, strict=True):
        if len(bytes.fromhex(str(sha256))) != 32 or not str(name):
            raise ValueError("a recording has no name or no SHA-256")
        yield str(name), Stamp(int(size), int(mtime_ns), str(sha256)), np.asarray(vector_D, np.float32)
