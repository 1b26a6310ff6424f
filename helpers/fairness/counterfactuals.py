"""Sentences rewritten so that one thing about a person changes and nothing else: the lexicon in
``data/counterfactuals.toml``, and pairs made with it from your own sentences.

``data/README.md`` says how the lexicon was made and what its limits are.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from helpers.assets import catalog
from helpers.errors import InvalidValue, unknown_name


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
    words: Mapping[str, Sequence[str]]
    template: str = ""
    capitals: int = 0
    object_before: frozenset[str] = frozenset()

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(self.words)

    @cached_property
    def partners(self) -> dict[str, dict[str, list[str]]]:
        """In a swap, for each word {its group: its partners in the other one}."""
        if self.kind != "swap":
            raise InvalidValue(f"{self.name!r} is inserted; a swap needs one like 'pronouns'.")
        found: dict[str, dict[str, list[str]]] = {}
        first, second = self.groups
        for one, other in zip(self.words[first], self.words[second], strict=True):
            found.setdefault(one, {}).setdefault(first, []).append(other)
            found.setdefault(other, {}).setdefault(second, []).append(one)
        return found

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """In a swap, any of the words."""
        also = [word for words in self.words.values() for word in words[: self.capitals]]
        forms = {*self.partners, *map(str.capitalize, also)}
        return re.compile(rf"\b(?:{'|'.join(map(re.escape, forms))})\b")


@dataclass(frozen=True)
class Pair:
    """One sentence written for two groups; ``origin`` is its number in the list of sentences."""

    origin: int
    first: str
    second: str


@cache
def load() -> dict[str, Attribute]:
    """The lexicon's attributes by name."""
    path = catalog.data_folder() / "counterfactuals.toml"
    found = {}
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        if table["kind"] == "insert":
            found[name] = Attribute(name, "insert", table["groups"], table["template"])
            continue
        columns = zip(*table["pronouns"], *table["nouns"], strict=True)
        found[name] = Attribute(
            name,
            "swap",
            dict(zip(table["groups"], columns, strict=True)),
            capitals=len(table["pronouns"]),
            object_before=frozenset(table["object_before"]),
        )
    return found


def attribute(name: str) -> Attribute:
    """One attribute of the lexicon. Raises InvalidValue for an unknown one."""
    if name not in load():
        raise unknown_name("attribute", name, load())
    return load()[name]


def mentioned(text: str, of: Attribute) -> tuple[str, ...]:
    """The groups whose words occur in ``text``, in the lexicon's order: (), one, or more.

    of: an attribute of kind "swap".
    """
    found = {group for word in of.pattern.findall(text) for group in of.partners[word.lower()]}
    return tuple(group for group in of.groups if group in found)


def swap(text: str, of: Attribute, *, to: str) -> str:
    """``text`` with every word of the other group replaced by its partner in group ``to``.

    English is not symmetric: "her" is "his" or "him" (the next word decides), "his" is "her", or
    "hers" at the end of a clause. Words of group ``to`` are kept, so a sentence about both becomes
    one about ``to`` alone.
    Raises InvalidValue: an attribute of another kind, an unknown group, nothing to swap.
    """
    _require_group(of, to)
    if not mentioned(text, of):
        raise InvalidValue(
            f"there is nothing to swap in {text!r}: no word of {' or '.join(of.groups)}. Choose "
            f"sentences by `mentioned`, or an attribute that is inserted."
        )

    def replaced(match: re.Match) -> str:
        word = match[0].lower()
        if to in of.partners[word]:
            return match[0]
        (choices,) = of.partners[word].values()
        following = re.match(r"\s+['\"(]*(\w+)", text[match.end() :])
        alone = following is None or following[1].lower() in of.object_before
        partner = choices[0] if len(choices) == 1 or alone == (word == "her") else choices[1]
        return partner.capitalize() if match[0][0].isupper() else partner

    return of.pattern.sub(replaced, text)


def pairs(
    texts: Sequence[str], name: str, first: str, second: str, *, seed: int = 42
) -> list[Pair]:
    """Pairs of sentences for the groups ``first`` and ``second`` of the attribute ``name``.

    A swap uses the sentences that mention exactly one of the two groups (of two, it would leave
    only one). An insertion uses all sentences, with words drawn by ``seed``.
    Raises InvalidValue: an unknown attribute or group, the same group twice, no sentence with
    anything to swap.
    """
    of = attribute(name)
    for group in (first, second):
        _require_group(of, group)
    if first == second:
        raise InvalidValue(f"both groups are {first!r}; a pair needs two different ones.")
    if of.kind == "insert":
        words = []
        for group in (first, second):
            random = np.random.default_rng([seed, of.groups.index(group)])
            words.append(random.choice(of.words[group], len(texts)))
        return [
            Pair(origin, of.template.format(one) + text, of.template.format(other) + text)
            for origin, (text, one, other) in enumerate(zip(texts, *words, strict=True))
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


def _require_group(of: Attribute, group: str) -> None:
    if group not in of.words:
        raise unknown_name(f"group of {of.name}", group, of.groups)
