"""Doctests of modules that cannot be imported without fairseq2 are collected only where it is."""

from importlib.util import find_spec

NEEDS_FAIRSEQ2 = ["fairseq2_family.py", "fairseq2_recipe.py", "fairseq2_unit.py"]
collect_ignore = [] if find_spec("fairseq2") else NEEDS_FAIRSEQ2
