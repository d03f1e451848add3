"""From logits to text, and how wrong the text is."""

from typing import TYPE_CHECKING, Any

from speechkit.decoding.error_rates import ErrorCounts, ErrorRate, bootstrap_interval, count_errors, error_rate
from speechkit.decoding.greedy import greedy_decode

if TYPE_CHECKING:
    from speechkit.decoding.ngram import NGram

__all__ = ["ErrorCounts", "ErrorRate", "NGram", "bootstrap_interval", "count_errors", "error_rate", "greedy_decode"]


def __getattr__(name: str) -> Any:
    if name == "NGram":  # importing Numba takes long, and greedy decoding needs none of it
        from speechkit.decoding.ngram import NGram

        return NGram
    raise AttributeError(f"module 'speechkit.decoding' has no attribute {name!r}")
