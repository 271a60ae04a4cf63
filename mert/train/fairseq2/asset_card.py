"""Asset cards: a few lines of YAML by which fairseq2 finds and loads a saved model."""

import json
from pathlib import Path

from mert.errors import CheckpointError
from mert.files import read_json, write_whole
from mert.weights.formats import from_mert_hub

FAMILY = "mert"  # as registered by mert.train.fairseq2.family


def write_asset_card(folder: str | Path, name: str) -> Path:
    """Write `fairseq2/NAME.yaml` into the folder of a model in our format; returns the card's path.

    Set FAIRSEQ2_USER_ASSET_DIR to the folder of the card, and fairseq2's `load_model(name)` gives the same `Mert`; the
    card names the weights relative to itself, so the folder can be moved. CheckpointError for other formats.

    >>> import tempfile, mert
    >>> folder = tempfile.mkdtemp()
    >>> _ = mert.save_pretrained(mert.random_model(), folder)
    >>> write_asset_card(folder, "my_mert").read_text().splitlines()[:3]
    ['name: my_mert', 'model_family: mert', 'checkpoint: ../model.safetensors']
    """
    config_file = Path(folder) / "config.json"
    values = read_json(config_file)
    if values.get("format") != "mert-hub" or not (Path(folder) / "model.safetensors").is_file():
        raise CheckpointError(folder, "is no model in our format", f"write one first: mert convert {folder} OUT")
    config = from_mert_hub(values, str(config_file)).to_dict()
    lines = [f"name: {name}", f"model_family: {FAMILY}", "checkpoint: ../model.safetensors", "model_config:"]
    lines += [f"  {key}: {in_yaml(value)}" for key, value in config.items()]
    path = Path(folder) / "fairseq2" / f"{name}.yaml"
    with write_whole(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def in_yaml(value: object) -> str:
    """A plain value on one line. JSON is YAML, except for numbers such as 1e-05, which YAML 1.1 reads as text.

    >>> in_yaml(1e-5), in_yaml([3, 2]), in_yaml(True)
    ('1.0e-05', '[3, 2]', 'true')
    """
    text = json.dumps(value)
    return text.replace("e", ".0e") if isinstance(value, float) and "." not in text else text
