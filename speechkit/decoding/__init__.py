"""From logits to text, and how wrong the text is."""

from speechkit.decoding.error_rates import ErrorCounts, ErrorRate, bootstrap_interval, count_errors, error_rate
from speechkit.decoding.greedy import greedy_decode, greedy_spans
from speechkit.decoding.word_alignment import AlignedWord, Confusions, align_words, count_confusions
from speechkit.decoding.word_times import WordSpan, extend_to_pauses, find_words

__all__ = [
    "AlignedWord",
    "Confusions",
    "ErrorCounts",
    "ErrorRate",
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
