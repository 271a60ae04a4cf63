"""Licences compared: which one binds a model made of things under several of them."""

import re
from collections.abc import Iterable

OWN = "Apache-2.0"  # of a model that nothing else binds
UNKNOWN = "unknown"
_PERMISSIVE = ("apache", "mit", "bsd", "isc", "cc0", "cc by", "public domain", "unlicense", "pddl", "odc by")


def restrictions(licence: str) -> tuple[bool, bool, bool]:
    """Whether a licence forbids commercial use, forbids changes, and either binds what is derived or is not known.

    The tuples order licences by strictness. Any spelling will do, such as the ids of the hub.

    >>> restrictions("CC BY-NC 4.0") > restrictions("cc-by-sa-4.0") == restrictions("other") > restrictions("mit")
    True
    """
    words = re.findall(r"[a-z0-9]+", licence.lower())
    text = " ".join(words)
    no_sale = "nc" in words or "noncommercial" in text or "non commercial" in text
    shared_alike = "sa" in words or "gpl" in text
    return no_sale, "nd" in words, shared_alike or not text.startswith(_PERMISSIVE)


def is_non_commercial(licence: str) -> bool:
    """Whether a licence forbids commercial use."""
    return restrictions(licence)[0]


def strictest(licences: Iterable[str]) -> str:
    """The strictest of some licences, in its own words; `OWN` if none of them restricts anything.

    >>> strictest(["MIT", "CC BY-NC 4.0", "unknown"]), strictest(["MIT", "unknown"]), strictest(["MIT"])
    ('CC BY-NC 4.0', 'unknown', 'Apache-2.0')
    """
    found = max(licences, key=restrictions, default=OWN)
    return found if any(restrictions(found)) else OWN


def named(licences: Iterable[tuple[str, str]]) -> str:
    """The things that restrict a model, each with its licence, for a card; empty if nothing does.

    >>> named([("base m", "cc-by-nc-4.0"), ("teacher cqt", "Apache-2.0"), ("data", "unknown")])
    'base m (cc-by-nc-4.0), data (unknown)'
    """
    return ", ".join(f"{thing} ({licence})" for thing, licence in licences if any(restrictions(licence)))
