"""Train, valid and test for labels of one's own: as the table says, or drawn by a seed, stratified, groups whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from probes.user_labels.table import LabelledFile, LabelTable, names_in

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Split:
    """Files of each split, and how they came there: `how` is for people, `seed` None where nothing was drawn."""

    how: str
    seed: int | None
    files: dict[str, tuple[str, ...]]

    @property
    def n(self) -> dict[str, int]:
        """Files of each split."""
        return {name: len(files) for name, files in self.files.items()}


def split(table: LabelTable, seed: int = 0) -> Split:
    """The split of a table, checked: three parts, no group in two of them, every class in train.

    >>> labels = {f"{i}.wav": ("flute", "oboe")[i % 2] for i in range(10)}
    >>> split(LabelTable.of("classification", labels)).n
    {'train': 6, 'valid': 2, 'test': 2}
    """
    if any(item.split for item in table.items):
        found, how, drawn = given(table), "as the column split says", None
    else:
        grouped = ", groups whole" if any(item.group for item in table.items) else ""
        found, drawn = random(table, seed), seed
        how = f"random by seed {seed}" + (", stratified" if table.classes and names_anywhere(table) else "") + grouped
    parts = {name: tuple(item.file for item in table.items if found[item.file] == name) for name in SHARES}
    made = Split(how, drawn, parts)
    check(table, made, found)
    return made


def given(table: LabelTable) -> dict[str, str]:
    """The split of each file as the table has it; LabelError where a group is in two."""
    of_group: dict[str, LabelledFile] = {}
    for item in table.items:
        if item.group and of_group.setdefault(item.group, item).split != item.split:
            reason = f"group {item.group} is in {of_group[item.group].split} and (line {item.line}) in {item.split}"
            raise table.error(reason, "keep a group in one split, or leave out the column")
    return {item.file: item.split for item in table.items}


def random(table: LabelTable, seed: int) -> dict[str, str]:
    """Give whole groups, those with the rarest classes first, to the split that lacks most of what they hold."""
    groups: dict[tuple[str, str], list[LabelledFile]] = defaultdict(list)
    for item in table.items:
        groups["group", item.group].append(item) if item.group else groups["file", item.file].append(item)
    held = {key: Counter(name for item in items for name in stratum(item)) for key, items in groups.items()}
    totals = sum(held.values(), Counter())
    lacking = {name: {of: share * n for of, n in totals.items()} for name, share in SHARES.items()}
    open_files = {name: share * len(table.items) for name, share in SHARES.items()}
    keys = sorted(groups)
    keys = [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]
    found: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: (min(totals[of] for of in held[key]), -len(groups[key]))):
        need = {name: sum(n * lacking[name][of] / totals[of] for of, n in held[key].items()) for name in SHARES}
        chosen = max(SHARES, key=lambda name: (round(need[name], 9), round(open_files[name], 9)))
        for of, n in held[key].items():
            lacking[chosen][of] -= n
        open_files[chosen] -= len(groups[key])
        found |= {item.file: chosen for item in groups[key]}
    return found


def stratum(item: LabelledFile) -> tuple[str, ...]:
    """What a split should have its share of: classes or tags, or else just files."""
    return names_in(item.label) or ("",)


def names_anywhere(table: LabelTable) -> bool:
    return any(names_in(item.label) for item in table.items)


def check(table: LabelTable, made: Split, found: dict[str, str]) -> None:
    """Refuse splits from which nothing can be learned, chosen or measured."""
    remedy = "label more files" + ("" if made.seed is None else ", or name the splits in a column split")
    for name, n in made.n.items():
        if not n:
            raise table.error(f"no file is in {name} ({made.how})", remedy)
    if table.task == "classification" and len(table.classes) < 2:
        raise table.error(f"has a single class ({', '.join(table.classes)})", "label files of another class, too")
    if table.task == "regression":
        check_values(table, found)
    if table.task == "frames" and not any(item.label for item in table.items if found[item.file] == "train"):
        raise table.error("no training file has an event", remedy)
    if table.task not in ("classification", "multilabel"):
        return
    by_class = counts(table, made)
    for name, in_part in by_class.items():
        if not in_part["train"]:
            raise table.error(f"no training file is {name} ({made.how})", f"{remedy}, or leave {name} out")
        if table.task == "multilabel" and in_part["train"] == made.n["train"]:
            raise table.error(f"every training file has the tag {name}", f"leave it out, or {remedy}")
    if table.task == "multilabel":
        for part in ("valid", "test"):
            if not any(0 < by_class[name][part] < made.n[part] for name in table.classes):
                raise table.error(f"no tag has files with and without it in {part} ({made.how})", remedy)


def check_values(table: LabelTable, found: dict[str, str]) -> None:
    """R² needs targets that vary in every split."""
    for i, name in enumerate(table.classes):
        for part in SHARES:
            if len({item.label[i] for item in table.items if found[item.file] == part}) < 2:
                raise table.error(f"{name} has fewer than two values in {part}", "label more files, or leave it out")


def counts(table: LabelTable, made: Split) -> dict[str, dict[str, int]]:
    """Files of each class or tag in each split; for values and events there is nothing to count."""
    if table.task not in ("classification", "multilabel"):
        return {}
    of_file = {item.file: names_in(item.label) for item in table.items}
    return {
        name: {part: sum(name in of_file[file] for file in files) for part, files in made.files.items()}
        for name in table.classes
    }
