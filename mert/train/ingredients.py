"""What a run is made of, as its checkpoints record it: data, teachers, base, and the licences that bind its model."""

from collections.abc import Iterable, Mapping
from typing import Any

from mert.errors import UsageError
from mert.train.corpus.base import Corpus
from teachers.base import TargetSource

NOTHING: dict[str, Any] = {"base": None, "data_licences": []}  # in checkpoints written before these were recorded


def facts(
    corpus: Corpus, teachers: Mapping[str, TargetSource], base: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a run is made of; a `base` has `name`, `sha256`, `licence` and `revision` of the weights it goes on from."""
    return {
        "corpus": corpus.fingerprint,
        "teachers": {name: teacher.fingerprint for name, teacher in teachers.items()},
        "licences": {name: teacher.licence for name, teacher in teachers.items()},
        "base": dict(base) if base else None,
        "data_licences": sorted(set(corpus.licences)),
    }


def described(base: Mapping[str, Any] | None) -> str:
    """The name and the hash of the weights that a run went on from."""
    return f"{base['name']} (sha256 {base['sha256'][:12]})" if base else "random weights"


def licences_of(made_of: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The things in a run's facts that its model inherits licences from, each with its licence."""
    made_of = NOTHING | dict(made_of)
    base = [(f"base {made_of['base']['name']}", made_of["base"]["licence"])] if made_of["base"] else []
    teachers = [(f"teacher {name}", licence) for name, licence in made_of["licences"].items()]
    return [*base, *teachers, *(("data", licence) for licence in made_of["data_licences"])]


def keyed(teachers: Iterable[TargetSource]) -> dict[str, TargetSource]:
    """Teachers by the keys of their heads: the name, and for a further teacher of that name also its fingerprint.

    A further k-means teacher is `kmeans-1a2b3c`. UsageError for the same teacher twice.
    """
    found: dict[str, TargetSource] = {}
    for teacher in teachers:
        if any(teacher.fingerprint == other.fingerprint for other in found.values()):
            raise UsageError("teachers", f"names {teacher.name} twice", "name each teacher once")
        further = f"{teacher.name}-{teacher.fingerprint[:6]}"
        found[further if teacher.name in found else teacher.name] = teacher
    return found
