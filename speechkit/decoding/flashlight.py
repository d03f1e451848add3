"""Beam search by flashlight-text, for language models in KenLM's binary format, which `BeamSearch` does not read."""

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from speechkit.decoding.hypothesis import Hypothesis
from speechkit.decoding.lexicon import Lexicon, check_spelling
from speechkit.decoding.log_probs import LEAST_LOG_PROB, split_log_probs
from speechkit.text import SentencePieceTokenizer, Tokenizer, WordTokenizer

LOG_10 = math.log(10.0)  # KenLM's logarithms have base 10


class FlashlightDecoder:
    """flashlight-text's lexicon decoder (through `torchaudio.models.decoder`), with the scores of `BeamSearch`.

    Args:
        tokenizer: of the model that gives the logits; its labels are characters or pieces.
        language_model: file in a format that KenLM reads: binary, or ARPA.
        lexicon: the words that may be recognised, spelled as the tokenizer spells them. Where labels are phonemes,
            those of a result are of each word's first pronunciation.
        beam_size, beam_threshold, token_beam_size, lm_weight, word_bonus, num_best: as those of `BeamSearch`.

    Raises:
        ImportError: flashlight-text is missing.
        ValueError: the labels are whole words; a word that the tokenizer cannot spell; a file that KenLM cannot read.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        language_model: str | os.PathLike[str],
        lexicon: Lexicon,
        beam_size: int = 50,
        beam_threshold: float = 20.0,
        token_beam_size: int | None = None,
        lm_weight: float = 0.5,
        word_bonus: float = 0.0,
        num_best: int = 1,
    ) -> None:
        if isinstance(tokenizer, WordTokenizer):
            raise ValueError("`tokenizer` must spell words, got one whose labels are words: use BeamSearch.")
        if not Path(language_model).is_file():
            raise ValueError(f"`language_model` must be a file, got {os.fspath(language_model)!r}.")
        check_spelling(lexicon, tokenizer)
        self.tokenizer, self.num_best = tokenizer, num_best
        self._lm_weight, self._word_bonus = lm_weight, word_bonus
        self._space = None if isinstance(tokenizer, SentencePieceTokenizer) else tokenizer.space_id
        self._decoder = self._build(
            language_model,
            lexicon,
            beam_size=beam_size,
            beam_size_token=token_beam_size,
            beam_threshold=beam_threshold,
            lm_weight=lm_weight * LOG_10,
            word_score=word_bonus,
            log_add=True,
        )

    def _build(self, language_model: str | os.PathLike[str], lexicon: Lexicon, **options: Any) -> Any:
        """Symbols go by their ids. A word is closed by a space, or where pieces begin words, by its last piece."""
        try:
            from torchaudio.models.decoder import ctc_decoder
        except RuntimeError as error:  # torchaudio's own for a missing package
            raise ImportError("flashlight-text is missing: pip install speechkit[flashlight]") from error
        size = self.tokenizer.vocab_size
        silence = size if self._space is None else self._space
        with tempfile.TemporaryDirectory() as folder:
            spellings = Path(folder) / "lexicon.txt"
            with spellings.open("w", encoding="utf-8") as file:
                for word in lexicon.words:
                    for labels in self.tokenizer.spellings(word):
                        ended = labels + [self._space] * (self._space is not None)
                        file.write(f"{word} {' '.join(map(str, ended))}\n")
            try:
                return ctc_decoder(
                    lexicon=str(spellings),
                    tokens=[str(symbol) for symbol in range(size + (self._space is None))],
                    lm=os.fspath(language_model),
                    blank_token="0",
                    sil_token=str(silence),
                    **options,
                )
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[-1]
                raise ValueError(f"{os.fspath(language_model)}: KenLM cannot read it: {reason}") from None

    def decode(
        self, logits: Tensor, lengths: Tensor, *, num_best: int | None = None, **borders: Any
    ) -> list[list[Hypothesis]]:
        """As `BeamSearch.decode`; but here each utterance is a sentence, whatever `begins` and `ends` say."""
        num_best = self.num_best if num_best is None else num_best
        if num_best < 1:
            raise ValueError(f"`num_best` must be at least 1, got {num_best}.")
        utterances = split_log_probs(logits, lengths, self.tokenizer.vocab_size)
        return [self._decode_one(log_probs)[:num_best] for log_probs in utterances]

    def _decode_one(self, log_probs: Tensor) -> list[Hypothesis]:
        if self._space is None:  # what flashlight calls silence is never heard
            log_probs = F.pad(log_probs, (0, 1), value=LEAST_LOG_PROB)
        else:  # one more frame closes the last word
            log_probs = F.pad(log_probs, (0, 0, 0, 1), value=LEAST_LOG_PROB)
            log_probs[-1, self._space] = 0.0
        hypotheses = []
        for result in self._decoder.decoder.decode(log_probs.data_ptr(), *log_probs.shape):
            words = [self._decoder.word_dict.get_entry(word) for word in result.words if word >= 0]
            lm_score = result.lmScore * LOG_10
            acoustic_score = result.score - self._lm_weight * lm_score - self._word_bonus * len(words)
            hypotheses.append(
                Hypothesis(
                    self.tokenizer.encode(" ".join(words)),
                    result.score,
                    acoustic_score,
                    lm_score,
                    None if self.tokenizer.spells_any_word else tuple(words),
                )
            )
        return hypotheses
