"""From logits to text, and how wrong the text is."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechkit.decoding.greedy import GreedySearch, greedy_decode, greedy_spans
from speechkit.decoding.hypothesis import Hypothesis
from speechkit.decoding.word_times import WordSpan, extend_to_pauses, find_greedy_words, find_words

if TYPE_CHECKING:
    from speechkit.decoding.arpa import read_arpa, write_arpa
    from speechkit.decoding.beam_search import BeamSearch
    from speechkit.decoding.error_rates import ErrorCounts, ErrorRate, bootstrap_interval, count_errors, error_rate
    from speechkit.decoding.flashlight import FlashlightDecoder
    from speechkit.decoding.kneser_ney import train_kneser_ney
    from speechkit.decoding.lexicon import Lexicon
    from speechkit.decoding.mixing import mix_ngrams, mixture_weights
    from speechkit.decoding.ngram import NGram
    from speechkit.decoding.word_alignment import AlignedWord, Confusions, align_words, count_confusions

__all__ = [
    "AlignedWord",
    "BeamSearch",
    "Confusions",
    "ErrorCounts",
    "ErrorRate",
    "FlashlightDecoder",
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
    "find_greedy_words",
    "find_words",
    "greedy_decode",
    "greedy_spans",
    "mix_ngrams",
    "mixture_weights",
    "read_arpa",
    "train_kneser_ney",
    "write_arpa",
]
_LATER = {
    "AlignedWord": "word_alignment",
    "BeamSearch": "beam_search",
    "Confusions": "word_alignment",
    "ErrorCounts": "error_rates",
    "ErrorRate": "error_rates",
    "FlashlightDecoder": "flashlight",
    "Lexicon": "lexicon",
    "NGram": "ngram",
    "align_words": "word_alignment",
    "bootstrap_interval": "error_rates",
    "count_confusions": "word_alignment",
    "count_errors": "error_rates",
    "error_rate": "error_rates",
    "mix_ngrams": "mixing",
    "mixture_weights": "mixing",
    "read_arpa": "arpa",
    "train_kneser_ney": "kneser_ney",
    "write_arpa": "arpa",
}


def __getattr__(name: str) -> Any:
    """What imports Numba or rapidfuzz is imported at its first use: greedy decoding needs none of it."""
    if name not in _LATER:
        raise AttributeError(f"module 'speechkit.decoding' has no attribute {name!r}")
    return getattr(import_module(f"speechkit.decoding.{_LATER[name]}"), name)
