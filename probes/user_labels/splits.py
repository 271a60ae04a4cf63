"""Train, valid and test of user labels: from the table, or drawn at random, stratified, with groups kept whole."""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from probes.user_labels.table import LabelledFile, LabelTable, names_in

SHARES = {"train": 0.6, "valid": 0.2, "test": 0.2}


@dataclass(frozen=True)
class Split:
    """Files of each split; `how` describes the method for people, `seed` is None where the table has the splits."""

    how: str
    seed: int | None
    files: dict[str, tuple[str, ...]]

    @property
    def n(self) -> dict[str, int]:
        """Files of each split."""
        return {name: len(files) for name, files in self.files.items()}


def split(table: LabelTable, seed: int = 0) -> Split:
    """The split of a table: three parts, no group in two of them, every class in train; LabelError otherwise.

    >>> labels = {f"{i}.wav": ("flute", "oboe")[i % 2] for i in range(10)}
    >>> split(LabelTable.of("classification", labels)).n
    {'train': 6, 'valid': 2, 'test': 2}
    """
    if any(item.split for item in table.items):
        split_of, how, drawn = column_split(table), "as the column split says", None
    else:
        grouped = ", groups whole" if any(item.group for item in table.items) else ""
        split_of, drawn = random_split(table, seed), seed
        stratified = ", stratified" if any(names_in(item.label) for item in table.items) else ""
        how = f"random by seed {seed}{stratified}{grouped}"
    files = {name: tuple(item.file for item in table.items if split_of[item.file] == name) for name in SHARES}
    parts = Split(how, drawn, files)
    check(table, parts, split_of)
    return parts


def column_split(table: LabelTable) -> dict[str, str]:
    """The split of each file by the table's column; LabelError where a group is in two."""
    first: dict[str, LabelledFile] = {}
    for item in table.items:
        if item.group and first.setdefault(item.group, item).split != item.split:
            reason = f"group {item.group} is in {first[item.group].split} and (line {item.line}) in {item.split}"
            raise table.error(reason, "keep a group in one split, or leave out the column")
    return {item.file: item.split for item in table.items}


def random_split(table: LabelTable, seed: int) -> dict[str, str]:
    """Assign whole groups, those with the rarest classes first, to the split that lacks most of their classes."""
    groups: dict[tuple[str, str], list[LabelledFile]] = defaultdict(list)
    for item in table.items:
        groups[("group", item.group) if item.group else ("file", item.file)].append(item)
    # each split should have its share of each class or tag, or else of all files
    strata = {key: Counter(name for item in items for name in names_in(item.label) or ("",))
              for key, items in groups.items()}  # fmt: skip
    totals = sum(strata.values(), Counter())
    lacking = {name: {part: share * n for part, n in totals.items()} for name, share in SHARES.items()}
    lacking_files = {name: share * len(table.items) for name, share in SHARES.items()}
    keys = sorted(groups)
    keys = [keys[i] for i in np.random.default_rng(seed).permutation(len(keys))]
    split_of: dict[str, str] = {}
    for key in sorted(keys, key=lambda key: (min(totals[part] for part in strata[key]), -len(groups[key]))):
        need = {name: sum(n * lacking[name][part] / totals[part] for part, n in strata[key].items()) for name in SHARES}
        chosen = max(SHARES, key=lambda name: (round(need[name], 9), round(lacking_files[name], 9)))
        for part, n in strata[key].items():
            lacking[chosen][part] -= n
        lacking_files[chosen] -= len(groups[key])
        split_of |= {item.file: chosen for item in groups[key]}
    return split_of


def check(table: LabelTable, parts: Split, split_of: dict[str, str]) -> None:
    """LabelError for splits on which heads cannot be fitted, selected or tested."""
    remedy = "label more files" + ("" if parts.seed is None else ", or name the splits in a column split")
    for name, n in parts.n.items():
        if not n:
            raise table.error(f"no file is in {name} ({parts.how})", remedy)
    if table.task == "classification" and len(table.classes) < 2:
        raise table.error(f"has a single class ({', '.join(table.classes)})", "label files of another class, too")
    for i, name in enumerate(table.classes if table.task == "regression" else ()):
        for part in SHARES:  # R² of constant values is undefined
            if len({item.label[i] for item in table.items if split_of[item.file] == part}) < 2:
                raise table.error(f"{name} has fewer than two values in {part}", "label more files, or leave it out")
    if table.task == "frames" and not any(item.label for item in table.items if split_of[item.file] == "train"):
        raise table.error("no training file has an event", remedy)
    by_class = counts(table, parts)
    for name, in_part in by_class.items():
        if not in_part["train"]:
            raise table.error(f"no training file is {name} ({parts.how})", f"{remedy}, or leave {name} out")
        if table.task == "multilabel" and in_part["train"] == parts.n["train"]:
            raise table.error(f"every training file has the tag {name}", f"leave it out, or {remedy}")
    if table.task == "multilabel":
        for part in ("valid", "test"):
            if not any(0 < by_class[name][part] < parts.n[part] for name in table.classes):
                raise table.error(f"no tag has files with and without it in {part} ({parts.how})", remedy)


def counts(table: LabelTable, parts: Split) -> dict[str, dict[str, int]]:
    """Number of files of each class or tag in each split; empty for values and events."""
    if table.task not in ("classification", "multilabel"):
        return {}
    of_file = {item.file: names_in(item.label) for item in table.items}
    return {name: {part: sum(name in of_file[file] for file in files) for part, files in parts.files.items()}
            for name in table.classes}  # fmt: skip
