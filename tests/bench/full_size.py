"""Full-size MERT-v2, MuQ and MusicFM with random weights: written as published, loaded, embedded, converted, verified.

`MERT_REFERENCE=DIR python tests/bench/full_size.py` prints the time and the peak memory of each step, each in a process
of its own. `DIR/families` holds the names and shapes of the published files, and configurations of small models. One
family after another takes up to 8 GB below --folder, which are removed. `--families` chooses some of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from harness.sounds import REFERENCE, music
from measuring import machine, named, write

from mert.models.conformer.config import ConformerConfig, mert_v2, muq_large
from mert.models.conformer.logmel import LogMel

FILES = {"mert2": "model.safetensors", "muq": "model.safetensors", "musicfm": "pretrained_msd.pt"}
EMBEDDED_S = 60
# What differs between the small models' configurations and the published ones.
MERT_V2 = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
    "num_mel_bins": 128, "subsampling_channels": [128, 512, 1024], "subsampling_depths": [3, 4, 5],
}  # fmt: skip
MUQ = {"encoder_dim": 1024, "encoder_depth": 12, "conv_dim": 512, "codebook_size": 8192,
       "rvq_n_codebooks": 8}  # fmt: skip
MUQ_WITHIN = {"intermediate_size": 4096, "num_attention_heads": 16}  # its `w2v2_config`


def write_published(family: str, folder: Path) -> Path:
    """A folder with random weights under the names and in the shapes of the published file; returns the file."""
    small = REFERENCE / "families" / family
    about = json.loads((small.parent / "keys.json").read_text())[family]
    config = mert_v2() if family == "mert2" else muq_large()
    torch.manual_seed(0)
    state = {
        name: random_tensor(name, shape, getattr(torch, dtype), config)
        for name, (shape, dtype) in about["tensors"].items()
    }
    folder.mkdir(parents=True)
    file = folder / FILES[family]
    if family == "musicfm":
        torch.save({"state_dict": state}, file)
        shutil.copy(small / "msd_stats.json", folder)
        return file
    save_file(state, file, {"format": "pt"})
    values = json.loads((small / "config.json").read_text())
    values |= MERT_V2 if family == "mert2" else MUQ | {"w2v2_config": values["w2v2_config"] | MUQ_WITHIN}
    (folder / "config.json").write_text(json.dumps(values))
    assert file.stat().st_size == about["files"][FILES[family]], "not of the published size"
    return file


def random_tensor(name: str, shape: list[int], dtype: torch.dtype, config: ConformerConfig) -> Tensor:
    """Values of the size that trained ones have, so that states neither vanish nor overflow."""
    if dtype != torch.float32 or not shape:
        return torch.zeros(shape, dtype=dtype)
    if name.endswith(("spectrogram.window", "mel_scale.fb")):
        return getattr(LogMel(config), "window" if name.endswith("window") else "filters")
    if name.endswith("inv_freq"):
        return 10_000.0 ** (-torch.arange(shape[0]) / shape[0])
    if name.endswith(("mel_std", "running_var")):
        return torch.rand(shape) + (18 if name.endswith("mel_std") else 0.5)
    if len(shape) == 1 and name.endswith("weight"):  # of a norm
        return 1 + 0.1 * torch.randn(shape)
    fan_in = torch.Size(shape[1:]).numel() if len(shape) > 1 else 100
    return torch.randn(shape) / fan_in**0.5


def steps(family: str, folder: Path) -> dict[str, list[str]]:
    """The commands of each step, by its name."""
    published, ours, song = folder / family, folder / "ours", folder / "song.wav"
    python, mert = [sys.executable], [sys.executable, "-m", "mert.cli"]
    load = "import sys, mert; print(mert.load(sys.argv[1], device='cpu'))"
    return {
        "write": [*python, __file__, "--families", family, "--write", str(published)],
        "load": [*python, "-c", load, str(published)],
        f"embed {EMBEDDED_S} s": [*mert, "embed", str(song), *("-m", str(published), "-o", str(folder), "-d", "cpu")],
        "convert": [*mert, "convert", str(published), str(ours)],
        "verify": [*mert, "verify", str(ours)],
    }  # fmt: skip


def measured(command: list[str]) -> dict[str, float]:
    """Seconds, seconds of CPU and peak resident memory of a command, which must succeed."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds, cpu_s = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    return {"seconds": seconds, "cpu_s": cpu_s, "peak_mib": usage.ru_maxrss / 1024}


def shown(families: dict[str, dict[str, dict[str, float]]]) -> str:
    """A row for each family in Markdown: seconds of each step, of them on the CPU, and its peak memory."""
    names = list(next(iter(families.values())))
    lines = [f"| | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    for family, of in families.items():
        cells = (f"{s['seconds']:.0f} s, CPU {s['cpu_s']:.0f} s, {s['peak_mib'] / 1024:.1f} GiB" for s in of.values())
        lines.append(f"| {family} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", default=",".join(FILES))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--write", type=Path, help="only write the first family, to this folder")
    parser.add_argument("--out", type=Path, default=Path("bench_out/full_size.json"))
    asked = parser.parse_args()
    families = asked.families.split(",")
    if asked.write:
        print(write_published(families[0], asked.write).stat().st_size, "bytes")
        return
    results: dict[str, Any] = {"machine": machine(), "families": {}}
    for family in families:
        with tempfile.TemporaryDirectory(dir=asked.folder) as name:
            soundfile.write(Path(name) / "song.wav", music(EMBEDDED_S), 24_000)
            results["families"][family] = {step: measured(line) for step, line in steps(family, Path(name)).items()}
    print(f"{named(results['machine'])}, load when it began {results['machine']['load_before'][0]:.1f}\n")
    print(shown(results["families"]))
    write(results, asked.out)


if __name__ == "__main__":
    main()
