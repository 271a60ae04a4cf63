"""Teachers by name or saved folder: which need fitting, which do not, and where each lives."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from teachers.base import Teacher, TeacherError, read_folder

# name: (module, class, maker without data, maker from data); imported when first used, for some need extras
_TEACHERS: dict[str, tuple[str, str, str | None, str | None]] = {
    "cqt": ("teachers.cqt", "CqtTeacher", "", None),
    "encodec": ("teachers.encodec", "EncodecTeacher", "pretrained", None),
    "encodec_small": ("teachers.encodec", "SmallEncodecTeacher", None, "fit"),
    "kmeans": ("teachers.kmeans", "KmeansTeacher", None, "fit"),
    "mel_rvq": ("teachers.mel_rvq", "MelRvqTeacher", None, "fit"),
    "random_projection": ("teachers.random_projection", "RandomProjectionTeacher", "seeded", "fit"),
}
READY = tuple(name for name, entry in _TEACHERS.items() if entry[2] is not None)
FITTED = tuple(name for name, entry in _TEACHERS.items() if entry[3] is not None)


def teacher_class(name: str) -> Any:
    """The class of a teacher; TeacherError if there is none of this name."""
    if name not in _TEACHERS:
        raise TeacherError(name, "is no teacher", f"choose one of {', '.join(sorted(_TEACHERS))}")
    module, kind, *_ = _TEACHERS[name]
    return getattr(import_module(module), kind)


def load_teacher(name_or_folder: str | Path) -> Teacher:
    """A teacher that needs no fitting, by name, or a saved one or a label store, by folder; TeacherError.

    A folder may also be that of EnCodec's published weights.

    >>> load_teacher("cqt").n_bins
    336
    """
    name = str(name_or_folder)
    if isinstance(name_or_folder, str) and name in READY:
        kind, maker = teacher_class(name), _TEACHERS[name][2]
        made: Teacher = getattr(kind, maker)() if maker else kind()
        return made
    folder = Path(name_or_folder)
    if (folder / "store.json").is_file():
        from teachers.labels import LabelStore

        stored: Teacher = LabelStore(folder)
        return stored
    if (folder / "teacher.json").is_file():
        about, _ = read_folder(folder)
        loaded: Teacher = teacher_class(about["name"]).load(folder)
        return loaded
    if next(folder.glob("encodec_24khz-*.th"), None):
        published: Teacher = teacher_class("encodec").pretrained(folder)
        return published
    if name in FITTED:
        raise TeacherError(name, "must be fitted first", f"run `mert fit-teacher {name} DATA -o DIR` and name DIR")
    raise TeacherError(name, "is neither a saved teacher nor a name", f"name a folder or one of {', '.join(READY)}")


def fit_teacher(name: str, waves: Iterable[np.ndarray], **settings: Any) -> Teacher:
    """Fit a teacher to float32 mono waves at its sample rate; reproducible from `seed`.

    TeacherError for a name that is not fitted, unknown settings, or too little data.
    """
    fit = getattr(teacher_class(name), "fit", None)
    if fit is None:
        raise TeacherError(name, "is not fitted", f"use it by name, or fit one of {', '.join(FITTED)}")
    code = fit.__func__.__code__
    known = set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - {"cls", "waves"}
    takes_more = bool(code.co_flags & 0x08)
    if not takes_more and (unknown := sorted(set(settings) - known)):
        raise TeacherError(name, f"unknown settings {unknown}", f"choose from {sorted(known)}")
    fitted: Teacher = fit(waves, **settings)
    return fitted
