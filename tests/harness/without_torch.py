"""What must work without torch, as a script: `python tests/harness/without_torch.py FOLDER` embeds the WAVs in it.

`make runtime-test` runs it where torch is not installed, a test where importing torch raises. It imports numpy and mert
alone, so that an environment of the runtime's few packages can run it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np


def main(folder: Path) -> None:
    """Write the features of a folder by `mert embed`, and by `mert.load` of an exported folder."""
    assert find_spec("torch") is None, "torch is here"
    import mert
    from mert.cli import main as cli

    def run(*words: object) -> None:
        sys.argv = ["mert", *map(str, words)]
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, f"mert {words[0]}: exit code {end.code}"

    run("embed", folder, "-o", folder / "features", "--layers", "all", "--save-dtype", "float32", "--workers", 1)
    run("describe", folder, "-o", folder / "described")
    assert "seconds" in (folder / "described" / "descriptions.csv").read_text()
    run("export", "mert-nano", folder / "exported", "--to", "onnx", "--overwrite")
    wave_N = np.sin(np.arange(30_000) / 10)
    for m in (mert.load("mert-nano"), mert.load(folder / "exported")):
        assert m.embed(wave_N, sr=24_000, layers="recommended").values.shape == (1, 90, 256)
    made = make_conformer(folder / "conformer")
    run("export", made, folder / "conformer_exported", "--to", "onnx", "--overwrite")
    for m in (mert.load(made), mert.load(folder / "conformer_exported")):
        assert m.embed(wave_N, sr=24_000).values.shape == (3, 32, 16)
    assert sys.modules.get("torch") is None
    print("without torch: embedded, described, exported, loaded")


def make_conformer(folder: Path) -> Path:
    """Write a small conformer with random weights in our format; returns its folder."""
    from mert.files import write_json
    from mert.models.conformer.config import ConformerConfig
    from mert.weights.arrays import write_arrays
    from mert.weights.conformers import shapes_of
    from mert.weights.formats import to_mert_hub

    config = ConformerConfig(dim=16, n_layers=2, n_heads=2, ffn_dim=32, conv_dim=4, n_mels=16)
    draw = np.random.default_rng(0).standard_normal
    state = {name: 0.1 * draw(shape, np.float32) for name, shape in shapes_of(config).items()}
    state |= {name: np.exp(array) for name, array in state.items() if name.endswith(("_var", "frontend.std"))}
    write_arrays(folder / "model.safetensors", state)
    write_json(folder / "config.json", to_mert_hub(config))
    return folder


if __name__ == "__main__":
    if not list(Path(sys.argv[1]).glob("*.wav")):
        import soundfile

        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        soundfile.write(Path(sys.argv[1]) / "a.wav", 0.1 * np.sin(np.arange(132_300) / 10), 44_100)
    main(Path(sys.argv[1]))
