"""CTC prefix beam search with language model, lexicon and hotwords: logits (B, T, V) -> the likeliest texts."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from speechkit.decoding.beam_kernels import search
from speechkit.decoding.beam_tables import build_tables
from speechkit.decoding.homophones import choose_words
from speechkit.decoding.hotwords import check_hotwords
from speechkit.decoding.hypothesis import Hypothesis
from speechkit.decoding.lexicon import Lexicon, find_words, spelled_words
from speechkit.decoding.log_probs import split_log_probs
from speechkit.decoding.ngram import NGram
from speechkit.text import Tokenizer


class BeamSearch:
    """Finds, for each utterance, the texts with the greatest

        log P(text | audio) + lm_weight log P(words) + word_bonus |words| - unknown_penalty |unknown words| + hotwords

    by prefix beam search (Graves 2012, 7.5.3; Hannun et al. 2014, arXiv 1408.2873): the probability of a text is the
    sum of those of all its alignments. All scores are in nats. A word is scored when it is finished; until then it
    counts as the likeliest word that begins so, as the first of a sentence (smearing: Ortmanns et al. 1996).

    With T frames and a beam of K, an utterance takes at most 140 T K bytes beside its logits, in practice a fifth.

    Args:
        tokenizer: of the model that gives the logits.
        beam_size: how many beginnings of texts are kept from frame to frame, K. As in flashlight-text and pyctcdecode,
            the paths to one that end in a blank and those that end in its last label count as two.
        beam_threshold: what scores so much less than the best is dropped.
        token_beam_size: only labels among so many likeliest symbols of a frame are added; none: all.
        token_threshold: only labels of this log-probability or more are added, and the likeliest; none: all.
        language_model: over words. With sub-word pieces too, it is asked word by word.
        lm_weight: factor of its log-probability.
        word_bonus: for each word, against a language model's liking for few of them.
        unknown_penalty: for each word that the language model does not know.
        lexicon: no other words are possible.
        hotwords: words and phrases that are likelier than usual: phrase -> nats for each of its words, which it earns
            letter by letter and loses if it is not completed; or a sequence of phrases.
        hotword_boost: nats for each word, where `hotwords` is a sequence.
        sentence_end: an utterance ends a sentence of the language model.
        num_best: hypotheses for each utterance.
        num_threads: utterances of a batch that are decoded at once.

    Raises:
        ValueError: an argument out of range; a hotword or a lexicon's word that the tokenizer cannot spell; a language
            model none of whose words it can.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        beam_size: int = 50,
        beam_threshold: float = 20.0,
        token_beam_size: int | None = None,
        token_threshold: float | None = None,
        language_model: NGram | None = None,
        lm_weight: float = 0.5,
        word_bonus: float = 0.0,
        unknown_penalty: float = 10.0,
        lexicon: Lexicon | None = None,
        hotwords: Mapping[str, float] | Sequence[str] = (),
        hotword_boost: float = 10.0,
        sentence_end: bool = True,
        num_best: int = 1,
        num_threads: int = 1,
    ) -> None:
        for name, count in (
            ("beam_size", beam_size),
            ("token_beam_size", 1 if token_beam_size is None else token_beam_size),
            ("num_best", num_best),
            ("num_threads", num_threads),
        ):
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count}.")
        for name, value in (("lm_weight", lm_weight), ("unknown_penalty", unknown_penalty)):
            if not 0.0 <= value < math.inf:
                raise ValueError(f"`{name}` must be finite and not negative, got {value}.")
        if not beam_threshold > 0.0:
            raise ValueError(f"`beam_threshold` must be positive, got {beam_threshold}.")
        if token_threshold is not None and not token_threshold <= 0.0:
            raise ValueError(f"`token_threshold` must be a log-probability, so not positive, got {token_threshold}.")
        if not math.isfinite(word_bonus):
            raise ValueError(f"`word_bonus` must be finite, got {word_bonus}.")
        if tokenizer.vocab_size < 2:
            raise ValueError("`tokenizer` must have labels, got one that is not fitted yet.")
        self.tokenizer, self.num_best, self.num_threads = tokenizer, num_best, num_threads
        self._language_model = language_model
        self._words = find_words(tokenizer, language_model, lexicon)
        self._tables = build_tables(
            tokenizer=tokenizer,
            words=self._words,
            is_closed=lexicon is not None or (bool(self._words) and not tokenizer.spells_any_word),
            language_model=language_model,
            hotwords=check_hotwords(hotwords, hotword_boost, tokenizer),
            lm_weight=lm_weight,
            word_bonus=word_bonus,
            unknown_penalty=unknown_penalty,
            sentence_end=sentence_end,
            beam_size=beam_size,
            beam_threshold=beam_threshold,
            token_beam_size=tokenizer.vocab_size if token_beam_size is None else token_beam_size,
            token_threshold=-math.inf if token_threshold is None else token_threshold,
        )

    def decode(self, logits: Tensor, lengths: Tensor, *, num_best: int | None = None) -> list[list[Hypothesis]]:
        """Decodes a batch.

        Args:
            logits: (B, T, V), symbol 0 is the blank; log-probabilities will do.
            lengths: (B,) frames.
            num_best: hypotheses for each utterance; as in the constructor if none.

        Returns:
            For each utterance its best texts, best first: at least one, which may be empty.

        Raises:
            ValueError: see `split_log_probs`; `num_best` below 1.
        """
        num_best = self.num_best if num_best is None else num_best
        if num_best < 1:
            raise ValueError(f"`num_best` must be at least 1, got {num_best}.")
        utterances = split_log_probs(logits, lengths, self.tokenizer.vocab_size)

        def decode_one(log_probs: Tensor) -> list[Hypothesis]:
            labels, stops, scores = search(log_probs.numpy(), self._tables, num_best)
            starts = [0, *stops[:-1].tolist()]
            return [
                self._hypothesis(labels[start:stop].tolist(), values)
                for start, stop, values in zip(starts, stops.tolist(), scores.tolist(), strict=True)
            ]

        if self.num_threads == 1:
            return [decode_one(log_probs) for log_probs in utterances]
        with ThreadPoolExecutor(self.num_threads) as pool:
            return list(pool.map(decode_one, utterances))

    def _hypothesis(self, labels: list[int], scores: Sequence[float]) -> Hypothesis:
        words = None
        if not self.tokenizer.spells_any_word and self._words:
            alike = [self._words[spelling] for spelling in spelled_words(self.tokenizer, labels)]
            words = choose_words(alike, self._language_model)
        score, acoustic_score, lm_score = scores
        return Hypothesis(labels, score, acoustic_score, lm_score, words)
