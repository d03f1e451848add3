"""What a decoder that knows more than one answer gives."""

from typing import NamedTuple

from speechkit.text import Tokenizer


class Hypothesis(NamedTuple):
    """A transcript as labels, without blanks. Scores are natural logarithms; hypotheses are ranked by `score`.

    Where different words can have the same labels, as with phonemes, the decoder chooses between them and gives
    `words`, one for each that the labels write; otherwise the labels say it all.
    """

    labels: list[int]
    score: float
    acoustic_score: float  # log-probability of all paths to these labels that were found
    lm_score: float  # log-probability of the words by the language model, without its weight; 0 if there is none
    words: tuple[str, ...] | None = None

    def text(self, tokenizer: Tokenizer) -> str:
        """What was said; `tokenizer` is that of the labels."""
        return tokenizer.decode(self.labels) if self.words is None else " ".join(self.words)
