"""What a decoder that knows more than one answer gives."""

from typing import NamedTuple


class Hypothesis(NamedTuple):
    """A transcript as labels, without blanks. Scores are natural logarithms; hypotheses are ranked by `score`."""

    labels: list[int]
    score: float
    acoustic_score: float  # log-probability of all paths to these labels that were found
    lm_score: float  # log-probability of the words by the language model, without its weight; 0 if there is none
