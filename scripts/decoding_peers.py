"""speechkit, flashlight-text and pyctcdecode as functions from log-probabilities to text, with like settings."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.decoding import BeamSearch, Lexicon, NGram, train_kneser_ney, write_arpa
from speechkit.text import CharTokenizer, Tokenizer, WordTokenizer

UNKNOWN_PENALTY = 10.0 * math.log(10.0)  # what pyctcdecode's default comes to at this weight
Decode = Callable[[Tensor], str]  # log-probabilities (T, V) -> text


class Weights(NamedTuple):
    """What a search makes of words."""

    language_model: float = 1.0
    word_bonus: float = 1.0


EQUAL = Weights()


class LanguageModel:
    """A trigram of training texts, in memory and as a file, and its words."""

    def __init__(self, texts: Sequence[str], folder: Path) -> None:
        self.ngram: NGram = train_kneser_ney(texts, order=3)
        self.path = folder / "lm.arpa"
        write_arpa(self.ngram, self.path)
        self.words = sorted({word for text in texts for word in text.split()})


def word_bonus(tokenizer: Tokenizer, words: LanguageModel | None, weights: Weights) -> float:
    """flashlight's decoder for labels that are words has none."""
    return 0.0 if words is None or isinstance(tokenizer, WordTokenizer) else weights.word_bonus


def make_own(
    tokenizer: Tokenizer, words: LanguageModel | None, *, closed: bool, weights: Weights = EQUAL, **pruning: Any
) -> Decode:
    """speechkit, with the words of the language model alone (`closed`), any words, or no notion of words."""
    search = BeamSearch(
        tokenizer=tokenizer,
        language_model=None if words is None else words.ngram,
        lexicon=Lexicon(words.words) if closed else None,
        lm_weight=weights.language_model,
        word_bonus=word_bonus(tokenizer, words, weights),
        unknown_penalty=UNKNOWN_PENALTY,
        **pruning,
    )

    def decode(log_probs: Tensor) -> str:
        ((best,),) = search.decode(log_probs[None], torch.tensor([len(log_probs)]))
        return tokenizer.decode(best.labels)

    return decode


def make_flashlight(tokenizer: Tokenizer, words: LanguageModel | None, folder: Path, **pruning: Any) -> Decode:
    """flashlight-text through torchaudio. Symbols go by their ids, and an added one that is never heard is its silence.

    With words: its lexicon decoder, a frame that is surely a space being added where a space ends words. Where labels
    are words, or without words: its lexicon-free decoder.
    """
    from torchaudio.models.decoder import ctc_decoder

    size = tokenizer.vocab_size
    texts = ["", *map(tokenizer.label_text, range(1, size))]
    space = texts.index(" ") if " " in texts and isinstance(tokenizer, CharTokenizer) else None
    has_lexicon = words is not None and not isinstance(tokenizer, WordTokenizer)
    (folder / "lexicon.txt").write_text(
        "".join(
            f"{word} {' '.join(map(str, tokenizer.encode(word) + [space] * (space is not None)))}\n"
            for word in (words.words if words is not None and has_lexicon else [])
        )
    )
    # What a lexicon-free decoder calls a word is a symbol: its dictionary must have the order of the symbols.
    (folder / "words.txt").write_text("\n".join([*(text.strip() or f"<{n}>" for n, text in enumerate(texts)), "<sil>"]))
    decoder = ctc_decoder(
        lexicon=str(folder / "lexicon.txt") if has_lexicon else None,
        tokens=[str(symbol) for symbol in range(size + 1)],
        lm=None if words is None else str(words.path),
        lm_dict=None if has_lexicon or words is None else str(folder / "words.txt"),
        lm_weight=EQUAL.language_model * math.log(10.0),  # KenLM's logarithms have base 10
        word_score=word_bonus(tokenizer, words, EQUAL),
        log_add=True,
        blank_token="0",
        sil_token=str(size if space is None else space),
        **{{"token_beam_size": "beam_size_token"}.get(name, name): value for name, value in pruning.items()},
    )

    def decode(log_probs: Tensor) -> str:
        log_probs = F.pad(log_probs, (0, 1, 0, int(has_lexicon and space is not None)), value=-1e4)
        if has_lexicon and space is not None:
            log_probs[-1, space] = 0.0
        best = decoder(log_probs[None].contiguous())[0][0]
        if has_lexicon:
            return " ".join(best.words)
        return tokenizer.decode([int(token) for token in best.tokens if 0 < token < size])

    return decode


def make_pyctcdecode(
    tokenizer: Tokenizer, words: LanguageModel | None, beam_size: int, weights: Weights = EQUAL
) -> Decode:
    """pyctcdecode, with its defaults for what it prunes."""
    from pyctcdecode import build_ctcdecoder

    texts = [tokenizer.label_text(label) for label in range(1, tokenizer.vocab_size)]
    if not isinstance(tokenizer, CharTokenizer):
        texts = [text.replace(" ", "\u2581") or "<unk>" for text in texts]
    decoder = build_ctcdecoder(
        ["", *texts],
        kenlm_model_path=None if words is None else str(words.path),
        unigrams=None if words is None else words.words,
        alpha=weights.language_model,
        beta=word_bonus(tokenizer, words, weights),
        unk_score_offset=-10.0,
    )
    return lambda log_probs: decoder.decode(log_probs.numpy(), beam_width=beam_size)
