"""Teachers by name or saved folder, and fitting by name."""

from collections.abc import Callable, Iterable
from importlib import import_module
from inspect import Parameter, signature
from numbers import Integral, Real
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np

from teachers.base import TargetSource, Teacher, TeacherError, read_folder
from teachers.clustering import DEFAULT, Fitting

# name: (module, class, constructor without data, constructor from data); imported when used, as some need extras
_TEACHERS: dict[str, tuple[str, str, str | None, str | None]] = {
    "basic_pitch": ("teachers.basic_pitch", "BasicPitchTeacher", "installed", None),
    "cqt": ("teachers.cqt", "CqtTeacher", "at_rate", None),
    "encodec": ("teachers.encodec", "EncodecTeacher", "pretrained", None),
    "encodec_small": ("teachers.encodec", "SmallEncodecTeacher", None, "fit"),
    "kmeans": ("teachers.kmeans", "KmeansTeacher", None, "fit"),
    "musicnn": ("teachers.musicnn.teacher", "MusicnnTeacher", "installed", None),
    "musicnn_frames": ("teachers.musicnn.teacher", "MusicnnFramesTeacher", "installed", None),
    "mel_rvq": ("teachers.mel_rvq", "MelRvqTeacher", None, "fit"),
    "random_projection": ("teachers.random_projection", "RandomProjectionTeacher", "seeded", "fit"),
    "tonality": ("teachers.cqt", "TonalityTeacher", "at_rate", None),
}
READY = tuple(name for name, entry in _TEACHERS.items() if entry[2] is not None)
FITTED = tuple(name for name, entry in _TEACHERS.items() if entry[3] is not None)


def teacher_class(name: str) -> Any:
    """The class of a teacher; TeacherError if there is none of this name."""
    if name not in _TEACHERS:
        raise TeacherError(name, "is no teacher", f"choose one of {', '.join(sorted(_TEACHERS))}")
    module, kind, *_ = _TEACHERS[name]
    return getattr(import_module(module), kind)


def load_teacher(name_or_folder: str | Path, sample_rate: int = 24_000) -> TargetSource:
    """A teacher that needs no fitting, by name, or a saved one or a label store, by folder; TeacherError for others.

    One by name is made for music of `sample_rate`, with a frame every 320 samples; TeacherError if it has none of this
    rate. One in a folder has the rate that it was made for. A folder may also be that of EnCodec's published weights
    or of the package musicnn.

    >>> load_teacher("cqt").n_bins, load_teacher("cqt", 16_000).rate_hz
    (336, 50.0)
    """
    name = str(name_or_folder)
    if isinstance(name_or_folder, str) and name in READY:
        return ready_teacher(name, sample_rate)
    folder = Path(name_or_folder)
    if (folder / "store.json").is_file():
        from teachers.labels import LabelStore

        return LabelStore(folder)
    if (folder / "teacher.json").is_file():
        return teacher_class(read_folder(folder)[0]["name"]).load(folder)
    if next(folder.glob("encodec_24khz-*.th"), None):
        return teacher_class("encodec").pretrained(folder)
    if (folder / "MTT_musicnn").is_dir():
        return teacher_class("musicnn").installed(folder, sample_rate=sample_rate)
    if name in FITTED:
        raise TeacherError(name, "must be fitted first", f"run `mert fit-teacher {name} DATA -o DIR` and name DIR")
    raise TeacherError(name, "is neither a saved teacher nor a name", f"name a folder or one of {', '.join(READY)}")


def ready_teacher(name: str, sample_rate: int) -> Teacher:
    """A teacher by its name alone, for music of a rate; TeacherError if it has no such rate."""
    kind = teacher_class(name)
    make: Callable[..., Teacher] = getattr(kind, str(_TEACHERS[name][2]))
    if "sample_rate" in signature(make).parameters:
        try:
            return make(sample_rate=sample_rate)
        except ValueError as error:
            raise TeacherError(name, f"cannot work at {sample_rate} Hz ({error})", "give a higher rate") from None
    if kind.sample_rate != sample_rate:
        reason = f"works at {kind.sample_rate} Hz, and is asked for {sample_rate} Hz"
        raise TeacherError(name, reason, "use another teacher, or a model of its rate")
    return make()


def settings_of(name: str) -> dict[str, Parameter]:
    """The settings that fitting a teacher takes, with types and defaults; TeacherError if it cannot be fitted."""
    kind = teacher_class(name)
    if name not in FITTED:
        raise TeacherError(name, "is not fitted", f"use it by name, or fit one of {', '.join(FITTED)}")
    parameters = dict(signature(kind.fit, eval_str=True).parameters)
    if parameters.pop("settings", None):  # **settings, passed on
        parameters |= signature(kind.seeded, eval_str=True).parameters
    return {key: parameter for key, parameter in parameters.items() if key not in ("waves", "how")}


def fit_teacher(name: str, waves: Iterable[np.ndarray], how: Fitting = DEFAULT, **settings: Any) -> Teacher:
    """Fit a teacher to float32 mono waves at its sample rate; reproducible from `seed`, on one kind of device.

    TeacherError for a name that cannot be fitted, unknown settings, values of a wrong type or not above 0, or too
    little data.
    """
    known = settings_of(name)
    if unknown := sorted(settings.keys() - known):
        raise TeacherError(name, f"unknown settings {unknown}", f"choose from {sorted(known)}")
    for key, value in settings.items():
        check_setting(name, known[key], value)
    return teacher_class(name).fit(waves, how=how, **settings)


def check_setting(name: str, setting: Parameter, value: Any) -> None:
    """TeacherError unless a value has the type of its setting; numbers must be above 0, but a seed may be 0."""
    kinds = get_args(setting.annotation) or (setting.annotation,)
    many = isinstance(value, list | tuple) and any(get_origin(kind) is tuple for kind in kinds)
    wanted = "text" if str in kinds else "a number above 0" if float in kinds else "whole numbers above 0"
    kind = str if str in kinds else Real if float in kinds else Integral
    for item in value if many else [value]:
        fits = isinstance(item, kind) and not isinstance(item, bool)
        if kind is not str and fits:
            fits = item > 0 or (item == 0 and setting.name == "seed")
        if not fits and value != setting.default:
            raise TeacherError(name, f"{setting.name}={value!r} does not fit", f"give {wanted}")
