"""From logits to text, and how wrong the text is."""

from speechkit.decoding.error_rates import ErrorCounts, ErrorRate, bootstrap_interval, count_errors, error_rate
from speechkit.decoding.greedy import greedy_decode

__all__ = ["ErrorCounts", "ErrorRate", "bootstrap_interval", "count_errors", "error_rate", "greedy_decode"]
