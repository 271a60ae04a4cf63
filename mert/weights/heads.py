"""The heads that come with a model: which of its files they are, and how they go along when it is written anew."""

import logging
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mert.errors import CheckpointError
from mert.files import read_json, sha256_file, write_json, write_whole

log = logging.getLogger("mert")

HEADS = "heads"  # the folder beside weights whose heads describe recordings
CARD, TENSORS = "head.json", "head.safetensors"
AGAIN = "fit it again, or remove its folder"
_FILE = re.compile(rf"{HEADS}/[^/.][^/]*/({re.escape(CARD)}|{re.escape(TENSORS)})")


def head_files(names: Iterable[str]) -> list[str]:
    """Those of a model's files that its heads consist of, cards last: a head whose copy was cut off has none.

    >>> head_files(["config.json", "heads/key/head.json", "heads/key/head.safetensors", "heads/.key.tmp/head.json"])
    ['heads/key/head.safetensors', 'heads/key/head.json']
    """
    return sorted(filter(_FILE.fullmatch, names), key=lambda name: (name.endswith(CARD), name))


def carry_heads(model: Any, folder: Path, sha256: str | None) -> None:
    """Copy the heads that came with a model into a folder where its weights have `sha256`, to which they are bound.

    `sha256` is None if the weights in `folder` have other values than those of `model`. A warning names each head that
    is left out: all of them then, and otherwise those that were fitted on other weights than the model has now.
    """
    source: Path | None = getattr(model, "heads_folder", None)
    if source is None:
        return
    current, names, cards = model.look_again(), _names_in(source.parent), {}
    for name in filter(_is_card, names):
        card = read_json(source.parent / name)
        if _encoder(card).get("sha256") != current:
            reason = "it was fitted on other weights"
        elif sha256 is None:
            reason = "it was fitted on weights that are rounded in the copy"
        else:
            cards[_head(name)] = _bound(card, folder, sha256)
            continue
        log.warning("%s: left out, as %s; fit it again on the copy", source.parent / _head(name), reason)
    for name in names:
        if _head(name) not in cards:
            continue
        if _is_card(name):
            write_json(folder / name, cards[_head(name)])
        else:
            with write_whole(folder / name) as temporary:
                shutil.copyfile(source.parent / name, temporary)


def head_cards(folder: Path) -> dict[str, dict[str, Any]]:
    """The contents of head.json of each head in a model's folder, by the names of the heads."""
    return {Path(name).parent.name: read_json(folder / name) for name in filter(_is_card, _names_in(folder))}


def check_heads(folder: Path, sha256: str) -> tuple[str, ...]:
    """The names of the heads in a model's folder, whose weights have `sha256`.

    CheckpointError for one that was not fitted on these weights, or whose own tensors are not those of its card.
    """
    cards = head_cards(folder)
    for name, card in cards.items():
        head, encoder = folder / HEADS / name, _encoder(card)
        if (other := encoder.get("sha256")) != sha256:
            reason = f"was fitted on {encoder.get('name')} (sha256 {other}), not on the weights beside it ({sha256})"
            raise CheckpointError(head, reason, AGAIN)
        if not (head / TENSORS).is_file():
            raise CheckpointError(head, f"holds no {TENSORS}", AGAIN)
        if (found := sha256_file(head / TENSORS)) != card.get("weights_sha256"):
            reason = f"sha256 is {found}, {CARD} belongs to {card.get('weights_sha256')}"
            raise CheckpointError(head / TENSORS, reason, AGAIN)
    return tuple(cards)


def remove_heads_of_others(folder: Path, sha256: str | None) -> None:
    """Remove the heads in a model's folder that were fitted on other weights than it has now; a warning names each."""
    for name in filter(_is_card, _names_in(folder)):
        if _encoder(read_json(folder / name)).get("sha256") != sha256:
            log.warning("%s: removed, as it was fitted on the weights that were replaced", folder / _head(name))
            shutil.rmtree(folder / _head(name))
    with suppress(OSError):  # other heads are in it, or it is not there
        (folder / HEADS).rmdir()


def _names_in(folder: Path) -> list[str]:
    return head_files(path.relative_to(folder).as_posix() for path in (folder / HEADS).glob("*/*"))


def _is_card(name: str) -> bool:
    return name.endswith(CARD)


def _head(name: str) -> str:
    return name.rpartition("/")[0]


def _encoder(card: dict[str, Any]) -> dict[str, Any]:
    encoder = card.get("encoder")
    return encoder if isinstance(encoder, dict) else {}


def _bound(card: dict[str, Any], folder: Path, sha256: str) -> dict[str, Any]:
    """The card of a head on the same weights in the file of another folder, with a note of where it was fitted."""
    encoder = _encoder(card)
    if encoder["sha256"] == sha256:
        return card
    note = f"fitted on {encoder.get('name')} (sha256 {encoder['sha256']}), whose weights have the same values"
    bound = encoder | {"name": folder.resolve().name, "revision": None, "sha256": sha256}
    return card | {"encoder": bound, "notes": [*card.get("notes", []), note]}
