"""Hotwords as an automaton over characters (Aho and Corasick 1975): what a text earns by them, letter after letter.

A phrase stands between spaces. Its letters earn their share of its boost as they come; the space behind its last word
makes the whole boost stay, and any other character takes back what was earned in advance, down to what the longest
beginning of another phrase has earned. So the score of a text does not depend on what else was searched.
"""

import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.lexicon import spell
from speechkit.text import Tokenizer, normalize_text


def check_hotwords(
    hotwords: Mapping[str, float] | Sequence[str], boost: float, tokenizer: Tokenizer
) -> dict[str, float]:
    """Phrase, normalised -> nats for each of its words; `boost` where `hotwords` does not say.

    Raises:
        ValueError: a phrase is empty or holds what the tokenizer lacks; a boost is not positive and finite.
    """
    if isinstance(hotwords, str):
        raise ValueError(f"`hotwords` must be a sequence of phrases or a mapping, got the string {hotwords!r}.")
    boosts = hotwords if isinstance(hotwords, Mapping) else dict.fromkeys(hotwords, boost)
    checked: dict[str, float] = {}
    for phrase, nats in boosts.items():
        if not 0.0 < nats < float("inf"):
            raise ValueError(f"`hotwords` must have positive finite boosts, got {nats} for {phrase!r}.")
        normalized = normalize_text(phrase)
        if not normalized:
            raise ValueError(f"`hotwords` must hold letters or digits, got {phrase!r}.")
        try:
            tokenizer.encode(phrase)
        except ValueError as error:
            raise ValueError(f"`hotwords`: {error}.") from None
        checked[normalized] = max(checked.get(normalized, 0.0), float(nats))
    return checked


def spell_hotwords(hotwords: Mapping[str, float], tokenizer: Tokenizer) -> dict[str, float]:
    """What `check_hotwords` gives, by what labels write for a phrase: with phonemes, for each way to pronounce it."""
    spelled: dict[str, float] = {}
    for phrase, nats in hotwords.items():
        for words in itertools.product(*(spell(tokenizer, word) for word in phrase.split())):
            spelling = " ".join(words)
            spelled[spelling] = max(spelled.get(spelling, 0.0), nats)
    return spelled


class HotwordTables(NamedTuple):
    """S states, C columns. State 0 stands behind a space, state 1 where no hotword can be until the next space."""

    columns: NDArray[Any]  # (A,) int32, column of each character of the alphabet; 0 is that of all others
    steps: NDArray[Any]  # (S, C) int32, the state after a character
    completed: NDArray[Any]  # (S,) float64, nats earned for good when the state is reached
    in_progress: NDArray[Any]  # (S,) float64, nats earned in advance by the phrase that is the furthest in progress


def build_hotword_tables(hotwords: Mapping[str, float], alphabet: Mapping[str, int]) -> HotwordTables:
    """Builds the automaton.

    Args:
        hotwords: phrase (its words with single spaces between) -> nats for each of its words.
        alphabet: character -> id; it holds the space and all that the phrases are made of.
    """
    characters = sorted({" ", *"".join(hotwords)})
    columns = np.zeros(len(alphabet), np.int32)
    columns[[alphabet[character] for character in characters]] = np.arange(1, len(characters) + 1)

    children: list[dict[int, int]] = [{}, {int(columns[alphabet[" "]]): 0}]
    completed, in_progress = [0.0, 0.0], [0.0, 0.0]
    for phrase, boost in hotwords.items():
        state, whole = 0, boost * len(phrase.split())
        for place, character in enumerate(f"{phrase} "):
            column = int(columns[alphabet[character]])
            if column not in children[state]:
                children[state][column] = len(children)
                children.append({})
                completed.append(0.0)
                in_progress.append(0.0)
            state = children[state][column]
            if place < len(phrase):
                letters = len(phrase[: place + 1].replace(" ", ""))
                in_progress[state] = max(in_progress[state], whole * letters / len(phrase.replace(" ", "")))
        completed[state] += whole

    steps = np.ones((len(children), len(characters) + 1), np.int32)
    steps[1, columns[alphabet[" "]]] = 0
    queue = deque([(0, 1)])  # a state, and that of its longest proper end
    while queue:
        state, suffix = queue.popleft()
        completed[state] += completed[suffix]
        in_progress[state] = max(in_progress[state], in_progress[suffix])
        steps[state] = steps[suffix]
        for column, child in children[state].items():
            queue.append((child, int(steps[suffix, column])))
            steps[state, column] = child
    return HotwordTables(columns, steps, np.array(completed), np.array(in_progress))
