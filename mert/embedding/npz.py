"""`.npz` files written whole or not at all, frame by frame where they are long, and read without trust.

Shapes: L layers, T frames, D model width.
"""

import math
import shutil
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from mert.errors import OutputError
from mert.files import put_in_place, temporary_folder, writing

MAX_ENTRIES = 16
_EPOCH = (1980, 1, 1, 0, 0, 0)  # a fixed date, so that equal contents are equal bytes


def write_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to `path`: to a file beside it first, then by rename."""
    with temporary_folder(Path(path)) as folder:
        _write_archive(Path(path), folder, arrays)


def read_npz(path: str | Path, required: tuple[str, ...], leave_out: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read what `write_npz` wrote: no pickle, all `required` keys, and nothing that takes more memory than the file.

    Arrays to `leave_out` need to be there, but are not read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ValueError("it is compressed")
            if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > Path(path).stat().st_size:
                raise ValueError("it has too many entries, or some that share their bytes")
            if leave_out and archive.testzip():  # what is not read is at least whole
                raise ValueError("its checksum is wrong")
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            arrays = {name: _read_array(archive, name) for name in names if name not in leave_out}
    except FileNotFoundError:
        raise OutputError(path, "is not there", "check the path, or embed the recording") from None
    except Exception as error:  # what damaged archives raise has no common type
        raise OutputError(path, f"not a features file ({error})", "give a file of mert embed, or embed again") from None
    if missing := [key for key in required if key not in names]:
        raise OutputError(path, f"not a features file (no {', '.join(missing)})", "embed the recording again")
    return arrays


def is_of_others(path: str | Path) -> bool:
    """Whether a file is an archive that no version of this package wrote; a damaged one is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "meta.npy" not in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


class FrameWriter:
    """Writes frames [L, T, D] to an `.npz` as they come: layers grow in temporary files, the final file by rename.

    Use as a context; leaving it without `finish` removes everything. Several writers of one output do not interfere:
    each has its own temporary folder, and the last to finish wins with a whole file.
    """

    def __init__(self, path: str | Path, dtype: str) -> None:
        self.path, self.dtype = Path(path), np.dtype(dtype)
        self.n_frames = 0
        self._files: list[BinaryIO] = []
        self._shape: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        self._open = ExitStack()
        self._folder = self._open.enter_context(temporary_folder(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, values_LTD: np.ndarray) -> None:
        """Append frames; OutputError where a value does not fit the dtype, or the disk is full."""
        stored_LTD = fitting(values_LTD, self.dtype, self.path)
        with writing(self.path):
            if not self._files:  # unbuffered, so that a full disk is noticed here
                paths = [self._folder / f"{i}.raw" for i in range(len(stored_LTD))]
                self._files = [self._open.enter_context(open(path, "w+b", 0)) for path in paths]  # noqa: SIM115
            for file, stored_TD in zip(self._files, stored_LTD, strict=True):
                view = memoryview(stored_TD.tobytes())
                while view:  # an unbuffered file may write less than it is given
                    view = view[file.write(view) :]
        self.n_frames += values_LTD.shape[1]
        self._shape = (len(values_LTD), self.n_frames, values_LTD.shape[2])

    def finish(self, **arrays: np.ndarray) -> None:
        """Put the frames under their final header, `arrays` beside them."""
        _write_archive(self.path, self._folder, arrays, self._write_values)

    def _write_values(self, archive: zipfile.ZipFile) -> None:
        with archive.open(_entry("values"), "w", force_zip64=True) as out:
            header = {"descr": self.dtype.str, "fortran_order": False, "shape": self._shape}
            np.lib.format.write_array_header_1_0(out, header)
            for file in self._files:
                file.seek(0)
                shutil.copyfileobj(file, out, 1 << 20)
                file.truncate(0)  # no more than one layer is on the disk twice


def fitting(values: np.ndarray, dtype: str | np.dtype, path: str | Path) -> np.ndarray:
    """Values in the type they are stored in at `path`; OutputError where one is too large for it."""
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    if not np.isfinite(stored).all():
        raise OutputError(path, f"a value of {np.abs(values).max():g} does not fit {dtype}", "store float32")
    return stored


def _write_archive(
    path: Path, folder: Path, arrays: dict[str, np.ndarray],
    write_first: Callable[[zipfile.ZipFile], None] = lambda archive: None,
) -> None:  # fmt: skip
    """Build the archive in `folder`; it becomes `path` once it is complete and on disk."""
    with writing(path):
        with zipfile.ZipFile(folder / "final.npz", "w", zipfile.ZIP_STORED) as archive:
            write_first(archive)
            for name, array in arrays.items():
                with archive.open(_entry(name), "w", force_zip64=True) as out:
                    np.lib.format.write_array(out, np.asarray(array, order="C"), allow_pickle=False)
        put_in_place(folder / "final.npz", path)


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(f"{name} is of another version")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if 0 not in shape and not 0 < dtype.itemsize * math.prod(shape) < entry.file_size:
        raise ValueError(f"{name} announces {shape} values of {dtype.itemsize} bytes")
    with archive.open(entry) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
