"""Free recordings that Debian packages hold, as rows of a manifest to train on."""

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mert.audio.find import SUFFIXES
from mert.audio.recording import Recording
from mert.errors import AudioError, MertError

# Debian packages of soundtracks, and the licence of their music as /usr/share/doc/PACKAGE/copyright has it.
SOUNDTRACKS = {"wesnoth-1.16-music": "GPL-2.0-or-later", "warzone2100-music": "GPL-2.0-or-later"}
LEAST_S = 20.0  # what is shorter is an effect, or a signal
TEST_SHARE = 0.15  # of the recordings


@dataclass(frozen=True)
class FreeRecording:
    """A recording in a package; those whose `split` is test are not for training."""

    path: str
    title: str
    package: str
    version: str
    licence: str
    split: str
    seconds: float


def free_recordings(packages: dict[str, str]) -> Iterator[FreeRecording]:
    """The recordings in installed packages, given with their licences; MertError if one is not installed.

    A hash of the file's name decides on which side of the split a recording is.
    """
    dpkg = shutil.which("dpkg-query")
    if dpkg is None:
        raise MertError("dpkg-query", "is not installed", "run this on Debian, Ubuntu or the like")
    for package, licence in packages.items():
        version = _asked(dpkg, package, "-W", "-f=${Version}", package)
        for line in _asked(dpkg, package, "-L", package).splitlines():
            path = Path(line)
            if path.suffix.lower() in SUFFIXES and path.is_file():
                try:
                    seconds = Recording(path).claimed_seconds()
                except AudioError:  # a package may name data after sound
                    continue
                if seconds >= LEAST_S:
                    split = "test" if _share(path.name) < TEST_SHARE else "train"
                    yield FreeRecording(line, path.stem, package, version, licence, split, round(seconds, 2))


def rows(recordings: Iterator[FreeRecording], split: str) -> list[dict[str, object]]:
    """The lines of a manifest: the recordings of one side of the split."""
    return [asdict(recording) for recording in recordings if recording.split == split]


def _share(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _asked(dpkg: str, package: str, *arguments: str) -> str:
    done = subprocess.run([dpkg, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise MertError(f"Debian package {package}", "is not installed", f"apt-get install {package}")
    return done.stdout
