"""Files of generated music: encoded audio, and folders that record the options of what is in them."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mert.files import read_json, write_json, write_whole

SUBTYPES = {"flac": "PCM_16", "wav": "PCM_16", "mp3": "MPEG_LAYER_III"}


def encode(wave_N: np.ndarray, rate_hz: int, suffix: str) -> bytes:
    """The bytes of an audio file; the wave is float32 or int16, [N] or [N, channels]."""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave_N, rate_hz, format=suffix.upper(), subtype=SUBTYPES[suffix])
    return buffer.getvalue()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    with write_whole(path) as temporary:
        temporary.write_bytes(data)


def claim(note: Path, options: dict[str, Any], kind: str) -> str | None:
    """Record the options of a folder's content in `note`; or return why the folder cannot be used, and write nothing.

    It may be missing, empty, or hold a part of the same content.
    """
    recorded = read_json(note) if note.exists() else None
    if recorded not in (None, options):
        return f"holds {kind} with {recorded}, not with {options}"
    others = note.parent.iterdir() if recorded is None and note.parent.exists() else ()
    if any(not path.name.endswith(".partial") for path in others):
        return f"is not empty, and holds no {kind}"
    write_json(note, options)
    return None
