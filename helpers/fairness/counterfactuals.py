"""Sentences rewritten so that one thing about a person changes and nothing else: the lexicon in
``data/counterfactuals.toml``, and pairs made with it from your own sentences.

``data/README.md`` says how the lexicon was made and what its limits are.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from helpers.assets import catalog
from helpers.errors import CourseError, InvalidValue, unknown_name

KINDS = ("swap", "insert")


@dataclass(frozen=True)
class Attribute:
    """One thing about a person, and the words that express it.

    kind: "swap" replaces words of the sentence, "insert" puts ``template`` before it.
    words: of each group. In a swap, ``words[first][i]`` and ``words[second][i]`` are a pair.
    capitals: in a swap, how many pairs, from the first on, are also replaced when capitalised.
    object_before: in a swap, the words before which "her" is "him".
    """

    name: str
    kind: str
    words: Mapping[str, tuple[str, ...]]
    template: str = ""
    capitals: int = 0
    object_before: frozenset[str] = frozenset()

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.words)


@dataclass(frozen=True)
class Pair:
    """One sentence written for two groups; ``origin`` is its number in the list of sentences."""

    origin: int
    first: str
    second: str


def load(path: Path | None = None) -> dict[str, Attribute]:
    """The lexicon's attributes by name (default: the course's own, data/counterfactuals.toml).

    Raises CourseError: not TOML, or an incomplete attribute (fewer than two groups, a group without
    words, an unknown kind, a template without its gap, a word in two groups).
    """
    return dict(_load(path or catalog.data_folder() / "counterfactuals.toml"))


def attribute(name: str) -> Attribute:
    """One attribute of the course's lexicon. Raises InvalidValue for an unknown one."""
    known = load()
    if name not in known:
        raise unknown_name("attribute", name, known)
    return known[name]


def mentioned(text: str, of: Attribute) -> tuple[str, ...]:
    """The groups whose words occur in ``text``, in the lexicon's order: (), one, or more.

    of: an attribute of kind "swap".
    """
    pattern, partners = _swaps(of)
    found = {group for match in pattern.finditer(text) for group in partners[match[0].lower()]}
    return tuple(group for group in of.groups if group in found)


def swap(text: str, of: Attribute, *, to: str) -> str:
    """``text`` with every word of the other group replaced by its partner in group ``to``.

    English is not symmetric: "her" is "his" or "him" (the next word decides), "his" is "her", or
    "hers" at the end of a clause. Words of group ``to`` are kept, so a sentence about both becomes
    one about ``to`` alone.
    Raises InvalidValue: an attribute of another kind, an unknown group, nothing to swap.
    """
    pattern, partners = _swaps(of)
    _require_group(of, to)
    if not mentioned(text, of):
        raise InvalidValue(
            f"there is nothing to swap in {text!r}: no word of {' or '.join(of.groups)}. Choose "
            f"sentences by `mentioned`, or an attribute that is inserted."
        )

    def replaced(match: re.Match) -> str:
        word = match[0].lower()
        if to in partners[word]:
            return match[0]
        (choices,) = partners[word].values()
        following = re.match(r"\s+['\"(]*(\w+)", text[match.end() :])
        alone = following is None or following[1].lower() in of.object_before
        partner = choices[0] if len(choices) == 1 or alone == (word == "her") else choices[1]
        return partner.capitalize() if match[0][0].isupper() else partner

    return pattern.sub(replaced, text)


def insert(text: str, of: Attribute, word: str) -> str:
    """``text`` after the attribute's template with ``word`` in its gap.

    Raises InvalidValue: an attribute of another kind, a word that is not in its lists.
    """
    _require_kind(of, "insert")
    known = [word for words in of.words.values() for word in words]
    if word not in known:
        raise unknown_name(f"word of {of.name}", word, known)
    return of.template.format(word) + text


def pairs(
    texts: Sequence[str],
    name: str,
    first: str,
    second: str,
    *,
    each: int = 1,
    seed: int = 42,
) -> list[Pair]:
    """Pairs of sentences for the groups ``first`` and ``second`` of the attribute ``name``.

    A swap uses the sentences that mention exactly one of the two groups (of two, it would leave
    only one) and makes one pair from each. An insertion uses all sentences and makes ``each`` pairs
    from each, with words drawn by ``seed`` (different ones if there are enough).
    Raises InvalidValue: no texts, an unknown attribute or group, the same group twice, ``each``
    below 1, no sentence with anything to swap.
    """
    of = attribute(name)
    for group in (first, second):
        _require_group(of, group)
    if first == second:
        raise InvalidValue(f"both groups are {first!r}; a pair needs two different ones.")
    if each < 1:
        raise InvalidValue(f"each is {each}; it must be at least 1.")
    if len(texts) == 0:
        raise InvalidValue("there are no texts to make pairs of; give at least one.")
    if of.kind == "insert":
        drawn = {group: draw_words(of, group, len(texts), each, seed) for group in (first, second)}
        return [
            Pair(origin, insert(text, of, one), insert(text, of, other))
            for origin, text in enumerate(texts)
            for one, other in zip(drawn[first][origin], drawn[second][origin], strict=True)
        ]
    made = [
        Pair(origin, swap(text, of, to=first), swap(text, of, to=second))
        for origin, text in enumerate(texts)
        if mentioned(text, of) in ((first,), (second,))
    ]
    if not made:
        raise InvalidValue(
            f"there is nothing to swap: none of the {len(texts)} texts mentions only {first} "
            f"or only {second}. Give more texts, or choose an attribute that is inserted."
        )
    return made


def draw_words(of: Attribute, group: str, count: int, each: int, seed: int) -> np.ndarray:
    """(count, each) words of ``group``; those in a row differ if the group has enough."""
    _require_group(of, group)
    words = np.array(of.words[group])
    random = np.random.default_rng([seed, of.groups.index(group)])
    again = each > len(words)
    rows = [random.choice(words, each, replace=again) for _ in range(count)]
    return np.array(rows).reshape(count, each)


@lru_cache
def _load(path: Path) -> Mapping[str, Attribute]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CourseError(f"the lexicon {path.name} cannot be read: {error}.") from None
    return MappingProxyType({name: _attribute(name, table, path) for name, table in tables.items()})


def _attribute(name: str, table: dict[str, Any], path: Path) -> Attribute:
    def fault(what: str) -> CourseError:
        return CourseError(f"{path.name}: the attribute {name!r} {what}.")

    try:
        kind = table["kind"]
        if kind == "swap":
            first, second = table["groups"]
            rows = [*table["pronouns"], *table["nouns"]]
            words = {first: tuple(a for a, _ in rows), second: tuple(b for _, b in rows)}
        elif kind == "insert":
            words = {group: tuple(members) for group, members in table["groups"].items()}
        else:
            raise fault(f"is of kind {kind!r}; it must be one of {', '.join(KINDS)}")
        found = Attribute(
            name=name,
            kind=kind,
            words=MappingProxyType(words),
            template=table.get("template", ""),
            capitals=len(table.get("pronouns", [])),
            object_before=frozenset(table.get("object_before", [])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise fault(f"is not complete: {type(error).__name__} {error}") from None
    if len(words) < 2:
        raise fault("has fewer than two groups")
    for group, members in words.items():
        if not members:
            raise fault(f"has a group with no members, {group!r}")
    if kind == "insert" and found.template.count("{}") != 1:
        raise fault("needs a template with one gap, {}")
    seen: dict[str, str] = {}
    for group, members in words.items():
        for word in members:
            if seen.setdefault(word, group) != group:
                raise fault(f"has {word!r} in two groups, {seen[word]!r} and {group!r}")
    return found


@lru_cache
def _swaps_of(name: str, first: str, second: str, capitals: int, rows: tuple) -> tuple:
    partners: dict[str, dict[str, list[str]]] = {}
    for one, other in rows:
        partners.setdefault(one, {}).setdefault(first, []).append(other)
        partners.setdefault(other, {}).setdefault(second, []).append(one)
    either = [word for row in rows[:capitals] for word in row]
    forms = {*partners, *(word.capitalize() for word in either)}
    longest_first = sorted(forms, key=lambda form: (-len(form), form))
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"), partners


def _swaps(of: Attribute) -> tuple[re.Pattern, dict[str, dict[str, list[str]]]]:
    """The pattern of all words, and for each word {its group: its partners in the other one}."""
    _require_kind(of, "swap")
    first, second = of.groups
    rows = tuple(zip(of.words[first], of.words[second], strict=True))
    return _swaps_of(of.name, first, second, of.capitals, rows)


def _require_kind(of: Attribute, kind: str) -> None:
    if of.kind != kind:
        raise InvalidValue(
            f"{of.name!r} is an attribute of kind {of.kind!r}; here one of kind {kind!r} is needed."
        )


def _require_group(of: Attribute, group: str) -> None:
    if group not in of.words:
        raise unknown_name(f"group of {of.name}", group, of.groups)
