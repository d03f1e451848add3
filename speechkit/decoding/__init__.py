"""From logits to text, and how wrong the text is."""

import importlib
from typing import TYPE_CHECKING, Any

from speechkit.decoding.error_rates import ErrorCounts, ErrorRate, bootstrap_interval, count_errors, error_rate
from speechkit.decoding.greedy import GreedySearch, greedy_decode, greedy_spans
from speechkit.decoding.hypothesis import Hypothesis
from speechkit.decoding.word_alignment import AlignedWord, Confusions, align_words, count_confusions
from speechkit.decoding.word_times import WordSpan, extend_to_pauses, find_words

if TYPE_CHECKING:
    from speechkit.decoding.beam_search import BeamSearch
    from speechkit.decoding.lexicon import Lexicon
    from speechkit.decoding.ngram import NGram

__all__ = [
    "AlignedWord",
    "BeamSearch",
    "Confusions",
    "ErrorCounts",
    "ErrorRate",
    "GreedySearch",
    "Hypothesis",
    "Lexicon",
    "NGram",
    "WordSpan",
    "align_words",
    "bootstrap_interval",
    "count_confusions",
    "count_errors",
    "error_rate",
    "extend_to_pauses",
    "find_words",
    "greedy_decode",
    "greedy_spans",
]
_NEED_NUMBA = {"BeamSearch": "beam_search", "Lexicon": "lexicon", "NGram": "ngram"}


def __getattr__(name: str) -> Any:
    if name in _NEED_NUMBA:  # importing it takes long, and greedy decoding needs none of it
        return getattr(importlib.import_module(f"speechkit.decoding.{_NEED_NUMBA[name]}"), name)
    raise AttributeError(f"module 'speechkit.decoding' has no attribute {name!r}")
