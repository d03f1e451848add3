"""CTC prefix beam search with language model, lexicon and hotwords: logits (B, T, V) -> the likeliest texts."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from speechkit.decoding.beam_kernels import search
from speechkit.decoding.beam_tables import build_tables
from speechkit.decoding.homophones import choose_words
from speechkit.decoding.hotwords import check_hotwords, spell_hotwords
from speechkit.decoding.hypothesis import Hypothesis
from speechkit.decoding.lexicon import Lexicon, find_words, spelled_words
from speechkit.decoding.log_probs import split_log_probs
from speechkit.decoding.ngram import NGram
from speechkit.text import Tokenizer


class BeamSearch:
    """Finds, for each utterance, the texts with the greatest

        log P(text | audio) + lm_weight log P(words) + word_bonus |words| - unknown_penalty |unknown words| + hotwords

    by prefix beam search (Graves 2012, 7.5.3; Hannun et al. 2014, arXiv 1408.2873): the probability of a text is the
    sum of those of all alignments of its labels; of several ways to write it in labels, as pieces and phonemes have
    them, the likeliest counts. All scores are in nats. A word is scored when it is finished; until then it counts as
    the likeliest word that begins so, as the first of a sentence (smearing: Ortmanns et al. 1996).

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
        unknown_penalty: for each word that the language model does not know and no hotword holds.
        lexicon: no other words are possible.
        hotwords: words and phrases that are likelier than usual: phrase -> nats for each of its words, which it earns
            letter by letter and loses if it is not completed; or a sequence of phrases. Of words that sound alike
            theirs are chosen.
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
        self._lm_weight, self._unknown_penalty = lm_weight, unknown_penalty
        self._hotwords = check_hotwords(hotwords, hotword_boost, tokenizer)
        self._words = find_words(tokenizer, language_model, lexicon, self._hotwords)
        self._tables = build_tables(
            tokenizer=tokenizer,
            words=self._words,
            is_closed=lexicon is not None or (bool(self._words) and not tokenizer.spells_any_word),
            language_model=language_model,
            hotwords=spell_hotwords(self._hotwords, tokenizer),
            lm_weight=lm_weight,
            word_bonus=word_bonus,
            unknown_penalty=unknown_penalty,
            sentence_end=sentence_end,
            beam_size=beam_size,
            beam_threshold=beam_threshold,
            token_beam_size=tokenizer.vocab_size if token_beam_size is None else token_beam_size,
            token_threshold=-math.inf if token_threshold is None else token_threshold,
        )

    def decode(
        self,
        logits: Tensor,
        lengths: Tensor,
        *,
        num_best: int | None = None,
        begins: Sequence[bool] | None = None,
        ends: Sequence[bool] | None = None,
    ) -> list[list[Hypothesis]]:
        """Decodes a batch.

        Args:
            logits: (B, T, V), symbol 0 is the blank; log-probabilities will do.
            lengths: (B,) frames.
            num_best: hypotheses for each utterance; as in the constructor if none.
            begins: (B,) whether an utterance begins a sentence, for the language model: not where speech was cut.
            ends: (B,) whether it ends one; of both, all do if none.

        Returns:
            For each utterance its best texts, best first: at least one, which may be empty. No two are the same.

        Raises:
            ValueError: see `split_log_probs`; `num_best` below 1.
        """
        num_best = self.num_best if num_best is None else num_best
        if num_best < 1:
            raise ValueError(f"`num_best` must be at least 1, got {num_best}.")
        utterances = split_log_probs(logits, lengths, self.tokenizer.vocab_size)

        def decode_one(log_probs: Tensor, begins_here: bool, ends_here: bool) -> list[Hypothesis]:
            options = self._tables.options
            tables = self._tables._replace(
                options=options._replace(
                    begin_state=options.begin_state if begins_here else 0, end_id=options.end_id if ends_here else -1
                )
            )
            # several sequences of labels may write one text: enough of them for as many texts
            found = search(log_probs.numpy(), tables, 1 if num_best == 1 else options.beam_size)
            labels, stops, scores = (array.tolist() for array in found)
            texts: dict[str, Hypothesis] = {}
            for start, stop, values in zip([0, *stops[:-1]], stops, scores, strict=True):
                hypothesis = self._hypothesis(labels[start:stop], values, begins_here, tables.options.end_id >= 0)
                texts.setdefault(hypothesis.text(self.tokenizer), hypothesis)
                if len(texts) == num_best:
                    break
            return list(texts.values())

        all_of_them = [True] * len(utterances)
        jobs = (utterances, all_of_them if begins is None else begins, all_of_them if ends is None else ends)
        if self.num_threads == 1:
            return [decode_one(*job) for job in zip(*jobs, strict=True)]
        with ThreadPoolExecutor(self.num_threads) as pool:
            return list(pool.map(decode_one, *jobs))

    def _hypothesis(self, labels: list[int], scores: Sequence[float], begins: bool, ends: bool) -> Hypothesis:
        score, acoustic_score, lm_score = scores
        if self.tokenizer.spells_any_word or not self._words:
            return Hypothesis(labels, score, acoustic_score, lm_score)
        words, lm_score = choose_words(
            [self._words[spelling] for spelling in spelled_words(self.tokenizer, labels)],
            self._language_model,
            lm_weight=self._lm_weight,
            unknown_penalty=self._unknown_penalty,
            hotwords=self._hotwords,
            begins=begins,
            ends=ends,
        )
        return Hypothesis(labels, score, acoustic_score, lm_score, words)
