"""Model cards (README.md of a model's folder): the writing of ours, and the reading of anyone's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mert.models.interface import NetworkConfig
from mert.weights.registry import ModelInfo

FAMILIES = {"mert": "MERT", "mert-v2": "MERT-v2", "muq": "MuQ", "musicfm": "MusicFM"}
_CARD = """\
---
license: {licence}
library_name: mert-hub
pipeline_tag: feature-extraction
tags: [music, audio, self-supervised, feature-extraction, {family}]
note: {note}
{front}---
# {name}

{headline}A music representation model of the family {family}: recordings in, hidden states out.

| | |
|---|---|
| parameters | {n_params:,} |
| sample rate | {sample_rate} Hz, mono |
| frame rate | {frame_rate:g} Hz |
| states | {n_states} of width {dim} (`embed`, `layer01` ... `{last}`) |
{recommended}| default window | {window_s:g} s |
| windows normalised | {normalize} |
| sha256 of model.safetensors | `{sha256}` |
| licence | {licence} |

```python
import mert  # install from a checkout of mert-hub: pip install -e .

model = mert.load("path/to/this/folder")  # or its name on the hub
features = model.embed("song.mp3")  # features.values: [layer, time, width]
```

`golden.safetensors` holds an input and the states it must give: `mert.verify("path/to/this/folder")`.
"""
_HEADS = """
## Heads

`heads/` holds what `mert describe` predicts with. A head may be under a licence of its own: see its notes.

| head | layer | notes |
|---|---|---|
"""


def model_card(
    info: ModelInfo, config: NetworkConfig, sha256: str, licence: str | None = None,
    heads: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:  # fmt: skip
    """The text of README.md: front matter for the hub, `info.note`, a table of facts, and the cards of its `heads`."""
    licence, layer = licence or info.licence.lower().replace(" ", "-"), info.recommended_layer
    text = _CARD.format(
        name=info.name, family=FAMILIES.get(config.family, config.family), licence=licence, note=json.dumps(info.note),
        headline=f"> **{info.note}**\n\n" if info.note else "", n_params=config.n_params,
        sample_rate=config.sample_rate, frame_rate=config.frame_rate, n_states=config.n_layers + 1, dim=config.dim,
        last=config.layer_names[-1], window_s=config.window_s, normalize="yes" if config.normalize else "no",
        sha256=sha256, front=f"recommended_layer: {layer}\n" if layer else "",
        recommended=f"| recommended layer | `{layer}` |\n" if layer else "",
    )  # fmt: skip
    rows = "".join(f"| `{name}` | `{card.get('layer')}` | {_cell(card)} |\n" for name, card in (heads or {}).items())
    return text + _HEADS + rows if rows else text


def _cell(card: Mapping[str, Any]) -> str:
    """The notes of a head in a cell of a table."""
    return " ".join("; ".join(card.get("notes", [])).replace("|", "\\|").split())


def read_card(folder: Path) -> dict[str, str]:
    """The one-line entries of README.md's front matter, without control characters; empty without one."""
    card = folder / "README.md"
    try:
        text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""  # a pipe would never end
    except OSError:
        return {}
    before, _, rest = text.partition("---\n")
    front, closed, _ = rest.partition("\n---")
    if before.strip() or not closed:
        return {}
    pairs = (line.split(":", 1) for line in front.splitlines() if ":" in line and line[0] not in " #-")
    return {key.strip(): "".join(filter(str.isprintable, _unquote(value.strip()))) for key, value in pairs}


def _unquote(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip("'")
    except ValueError:
        return value
