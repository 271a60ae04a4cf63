"""Safetensors files as open weights, which are read tensor by tensor."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mert.errors import AGAIN, CheckpointError
from mert.weights.pickles import OpenWeights


@contextmanager
def open_safetensors(path: Path) -> Iterator[OpenWeights]:
    """A safetensors file, with its metadata as `objects`; CheckpointError if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            yield OpenWeights(file.metadata() or {}, shapes, file.get_tensor)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is not a safetensors file ({error})", AGAIN) from error
