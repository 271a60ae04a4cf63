"""The mean of the weights of two runs of one network: `python average.py A B SHARE OUT`, SHARE being that of B.

A, B and OUT are folders in our own format (`mert export --half`); OUT has no states to verify it by until it is
exported.
"""

import shutil
import sys
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

NAME = "model.safetensors"


def main(a: Path, b: Path, share: float, out: Path) -> None:
    """Write the configuration, which both share, and the mean, in the precision of A."""
    if (a / "config.json").read_bytes() != (b / "config.json").read_bytes():
        raise SystemExit(f"{a} and {b} are not of one configuration")
    of_a, of_b = load_file(a / NAME), load_file(b / NAME)
    means = {
        name: ((1 - share) * value.float() + share * of_b[name].float()).to(value.dtype) for name, value in of_a.items()
    }
    out.mkdir(parents=True)
    shutil.copy(a / "config.json", out)
    with safe_open(a / NAME, "pt") as file:
        save_file(means, out / NAME, file.metadata())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
