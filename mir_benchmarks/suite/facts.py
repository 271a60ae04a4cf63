"""Facts of a score as words, and tags as rules over these words."""

from collections.abc import Mapping, Sequence

from mir_benchmarks.datasets.dataset import SPLITS
from mir_benchmarks.suite.plans import first_score
from mir_benchmarks.suite.sizes import Extent
from mir_benchmarks.synth.score import Note, Score
from mir_benchmarks.synth.styles import STYLES

AUDIBLE = 0.1  # share of the clip for which a part must sound to count
SLOW_BPM, FAST_BPM = 88, 124
SPARSE_HZ, DENSE_HZ = 13.5, 27.0  # notes and strokes a second
KINDS = {"keyboard": ("piano", "electric", "plucked"), "reed": ("clarinet", "saxophone", "oboe")}
SPARE = 100  # scores that are written besides those that a split needs
FM = {("keyboard", 1), ("synth_lead", 2)}

Rules = Mapping[str, str]


def part_share(score: Score, part: int) -> float:
    """Seconds of notes that a part plays, by the clip's seconds."""
    return sum(note.duration_s for note in score.notes if note.part == part) / score.seconds


def is_clear(score: Score) -> bool:
    """No singer for whom neither "voice" nor "no voice" would be right; something sounds at all."""
    voices = [part_share(score, i) for i, part in enumerate(score.parts) if part.role == "vocals"]
    return bool(score.notes) and all(share == 0 or share > AUDIBLE for share in voices)


def facts_of(score: Score) -> frozenset[str]:
    """All that the rules may ask for.

    >>> from mir_benchmarks.synth.compose import compose
    >>> sorted(fact for fact in facts_of(compose(0, 8.0, style="classical")) if fact.startswith(("no", "style")))
    ['no drums', 'no voice', 'style:classical']
    """
    tempo = "slow" if score.tempo_bpm < SLOW_BPM else "fast" if score.tempo_bpm > FAST_BPM else "mid"
    facts = {f"style:{score.style}", f"mode:{score.mode}", f"metre:{score.metre[0]}", f"tempo:{tempo}"}
    facts |= {"drums", f"kit:{score.kit[0]}"} if score.hits else {"no drums"}
    events_hz = (len(score.notes) + len(score.hits)) / score.seconds
    facts.add("sparse" if events_hz < SPARSE_HZ else "dense" if events_hz > DENSE_HZ else "even")
    for i in range(len(score.parts)):
        if part_share(score, i) > AUDIBLE:
            facts |= part_facts(score, i)
    return frozenset(facts if "voice" in facts else facts | {"no voice"})


def part_facts(score: Score, i: int) -> set[str]:
    part = score.parts[i]
    role, _, way = part.role.partition(" ")
    if role == "vocals":
        return {"voice", f"voice:{'female' if part.index % 2 else 'male'}", f"technique:{part.technique}"}
    facts = {f"family:{part.family}", f"{role.rstrip('2')}:{part.family}", f"way:{way}"}
    if part.drive >= 0.5:
        facts |= {"distorted", f"{part.family}:distorted"}
    if part.family in KINDS:
        facts.add(f"{part.family}:{KINDS[part.family][part.index % 3]}")
    return facts | ({"fm"} if (part.family, part.index % 3) in FM else set())


def holds(rule: str, facts: frozenset[str]) -> bool:
    """Whether a rule holds: `|` separates alternatives, `+` conditions of an alternative, `-` negates a condition.

    >>> rule = "drums + -voice | family:organ"
    >>> holds(rule, frozenset({"drums"})), holds(rule, frozenset({"drums", "voice"}))
    (True, False)
    """
    options = [[word.strip() for word in option.split("+")] for option in rule.split("|")]
    return any(all((word.lstrip("-") in facts) != word.startswith("-") for word in option) for option in options)


def tags_of(score: Score, rules: Rules) -> tuple[str, ...]:
    """The tags whose rule holds, in the order of the rules."""
    facts = facts_of(score)
    return tuple(tag for tag, rule in rules.items() if holds(rule, facts))


def choose(candidates: Sequence[Score], n: int, rules: Rules, min_each: int = 1) -> list[Score]:
    """`n` scores: each tag is true of at least `min_each` and false of as many, in the order of `candidates`.

    Scores that fill the most gaps are taken first, then the first ones. ValueError if a tag has too few.
    """
    marks = [{(tag, tag in tags) for tag in rules} for tags in (set(tags_of(score, rules)) for score in candidates)]
    missing = {(tag, truth): min_each for tag in rules for truth in (True, False)}
    chosen: list[int] = []
    while missing and len(chosen) < n:
        rest = [i for i in range(len(candidates)) if i not in chosen]
        best = max(rest, key=lambda i: (len(marks[i] & missing.keys()), -i))
        if not marks[best] & missing.keys():
            break
        chosen.append(best)
        missing = {mark: k - (mark in marks[best]) for mark, k in missing.items() if k - (mark in marks[best]) > 0}
    if missing:
        raise ValueError(f"{len(candidates)} candidates and {n} places are too few for {sorted(missing)}")
    chosen += [i for i in range(len(candidates)) if i not in chosen][: n - len(chosen)]
    return [candidates[i] for i in sorted(chosen)]


def draw_scores(corpus: str, seed: int, split: str, extent: Extent, rules: Rules) -> list[Score]:
    """The scores of a split in all styles, chosen from more; tags are as rare as `choose` allows."""
    n, first, styles = extent.counts[split], SPLITS.index(split) << 16, list(STYLES)
    pool = [first_score(corpus, seed, item, extent.seconds, is_clear, style=styles[item % len(styles)])
            for item in range(first, first + n + SPARE)]  # fmt: skip
    return choose(pool, n, rules, min_each=1 if n < 40 else 4)


def sung_notes(score: Score) -> list[Note]:
    """What the tune consists of: the notes of lead and singer."""
    tuneful = {i for i, part in enumerate(score.parts) if part.role in ("lead", "vocals")}
    return [note for note in score.notes if note.part in tuneful]
