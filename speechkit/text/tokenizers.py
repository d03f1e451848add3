"""Tokenizers: normalised text <-> label ids. Id 0 is the CTC blank in all of them, so labels start at 1.

Each is fitted once on training texts (`fit`). What the constructor's arguments do not hold travels as `files`.
"""

import io
import itertools
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from speechkit.text.normalization import normalize_text, plain_characters

_WORD_MARK = "\u2581"  # what SentencePiece writes for a space


class Tokenizer(ABC):
    """Maps text to label ids and back; `blank_id` is 0."""

    blank_id = 0
    spells_any_word = True  # at least of its own alphabet

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Number of ids, blank included; 1 means not fitted yet."""

    @abstractmethod
    def fit(self, texts: Iterable[str]) -> None:
        """Chooses the vocabulary from training texts."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Normalises and encodes.

        Raises:
            ValueError: the text needs a symbol that the vocabulary lacks; the message names it.
        """

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Label ids (no blanks, repeats already collapsed) -> text."""

    @abstractmethod
    def label_text(self, label: int) -> str:
        """What one label adds to a text; a space at its beginning ends the word before it.

        The texts of a sequence's labels, joined and with single spaces, are what `decode` gives; but for phonemes, for
        which it gives words. A label that stands for no text (an unknown piece) adds "".
        """

    def label_texts(self) -> list[str]:
        """Of labels 1 to V - 1; the blank, label 0, has none."""
        return [self.label_text(label) for label in range(1, self.vocab_size)]

    @property
    def space_id(self) -> int | None:
        """The label that writes a space and nothing else; none where labels themselves begin words."""
        texts = self.label_texts()
        return texts.index(" ") + 1 if " " in texts else None

    def spellings(self, word: str) -> list[list[int]]:
        """The ways in which labels write a word; none if they cannot."""
        try:
            return [labels] if (labels := self.encode(word)) else []
        except ValueError:
            return []

    def split_words(self, ids: Sequence[int]) -> list[slice]:
        """Where the words of decoded labels stand among them: `decode(ids[word])` is one word, and not empty."""
        return _words_among([self.label_text(label) for label in ids])

    def files(self) -> dict[str, bytes]:
        """What a bundle must hold besides the constructor's arguments: name -> content. Nothing, unless overridden.

        Names begin with `tokens.`, such as tokens.model.
        """
        return {}

    def load_files(self, files: Mapping[str, bytes]) -> None:  # noqa: B027
        """Takes back what `files` gave."""


def _words_among(texts: Sequence[str]) -> list[slice]:
    """Where words stand among the texts of labels; one that begins with a space ends the word before it."""
    starts = [place for place, text in enumerate(texts) if place == 0 or text.startswith(" ")]
    words = []
    for start, stop in itertools.pairwise([*starts, len(texts)]):
        start += not texts[start].strip()  # a label that is but a space, or nothing, is no part of the word
        if "".join(texts[start:stop]).strip():
            words.append(slice(start, stop))
    return words


class _SymbolTokenizer(Tokenizer):
    """A list of symbols; the id of a symbol is its place plus one."""

    kind: str

    def __init__(self, symbols: Iterable[str] = ()) -> None:
        self._set_symbols(symbols)

    def _set_symbols(self, symbols: Iterable[str]) -> None:
        self.symbols = list(symbols)
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"`symbols` must not repeat, got {self.symbols}.")
        self._ids = {symbol: place + 1 for place, symbol in enumerate(self.symbols)}

    @property
    def vocab_size(self) -> int:
        return len(self.symbols) + 1

    def fit(self, texts: Iterable[str]) -> None:
        self._set_symbols(sorted({symbol for text in texts for symbol in self._split(normalize_text(text))}))

    def encode(self, text: str) -> list[int]:
        symbols = self._split(normalize_text(text))
        unknown = sorted({symbol for symbol in symbols if symbol not in self._ids})
        if unknown:
            raise ValueError(f"the tokenizer lacks the {self.kind}(s) {', '.join(map(repr, unknown))} of {text!r}")
        return [self._ids[symbol] for symbol in symbols]

    def _split(self, text: str) -> list[str]:
        raise NotImplementedError


class CharTokenizer(_SymbolTokenizer):
    """One label a character, the space included.

    Args:
        symbols: the characters; empty means that they are taken from the training texts.
    """

    kind = "character"

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join("".join(map(self.label_text, ids)).split())

    def label_text(self, label: int) -> str:
        return self.symbols[label - 1]

    def _split(self, text: str) -> list[str]:
        return list(text)


class VocabularyTokenizer(CharTokenizer):
    """Symbols that another toolkit chose: of any number of characters, in any case, and some that write nothing.

    A text is made of the longest symbols that fit, from the left; what is decoded is normalised.

    Args:
        symbols: what the labels write; " " between words.
        silent: those that write nothing, such as "<unk>".

    Raises:
        ValueError: no symbols, or a silent one that is not among them.
    """

    def __init__(self, symbols: Iterable[str], silent: Iterable[str] = ()) -> None:
        super().__init__(symbols)
        self.silent = tuple(silent)
        if not self.symbols or not set(self.silent) <= set(self.symbols):
            raise ValueError(f"`symbols` must hold all of `silent`, got {self.symbols} and {self.silent}.")
        written = sorted((symbol for symbol in self.symbols if symbol not in self.silent), key=len, reverse=True)
        self._pattern = re.compile("|".join([*map(re.escape, written), "."]))

    def fit(self, texts: Iterable[str]) -> None:
        """Nothing is left to choose."""

    def label_text(self, label: int) -> str:
        """In the form of normalised texts: what they have no sign for, such as a hyphen, is a space."""
        symbol = self.symbols[label - 1]
        return "" if symbol in self.silent else plain_characters(symbol)

    @property
    def space_id(self) -> int | None:
        return self._ids.get(" ")

    def decode(self, ids: Sequence[int]) -> str:
        return normalize_text("".join(map(self.label_text, ids)))

    def split_words(self, ids: Sequence[int]) -> list[slice]:
        return [word for word in super().split_words(ids) if self.decode(ids[word])]  # an apostrophe alone is none

    def _split(self, text: str) -> list[str]:
        return self._pattern.findall(text)


class WordTokenizer(_SymbolTokenizer):
    """One label a word: for small closed vocabularies (commands, digits).

    Args:
        symbols: the words; empty means that they are taken from the training texts.

    Raises:
        ValueError: a word that is not written as normalised texts have it, which could never be found in one.
    """

    kind = "word"

    def _set_symbols(self, symbols: Iterable[str]) -> None:
        super()._set_symbols(symbols)
        for word in self.symbols:
            if word.split() != [word] or normalize_text(word) != word:
                raise ValueError(f"`symbols` must hold normalised words, got {word!r}; write {normalize_text(word)!r}.")

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.symbols[label - 1] for label in ids)

    def label_text(self, label: int) -> str:
        return " " + self.symbols[label - 1]

    def _split(self, text: str) -> list[str]:
        return text.split()


class SentencePieceTokenizer(Tokenizer):
    """Sub-word pieces (Kudo and Richardson 2018, arXiv 1808.06226), trained on the training texts.

    Args:
        num_pieces: size of the vocabulary, the unknown piece included, the blank not.
        model_type: "unigram" or "bpe".
    """

    def __init__(self, num_pieces: int = 256, model_type: str = "unigram") -> None:
        if model_type not in ("unigram", "bpe"):
            raise ValueError(f'`model_type` must be "unigram" or "bpe", got {model_type!r}.')
        self.num_pieces, self.model_type = num_pieces, model_type
        self._model = b""
        self._processor: Any = None

    def _set_model(self, model: bytes) -> None:
        import sentencepiece

        self._model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    @property
    def vocab_size(self) -> int:
        return 1 if self._processor is None else self._processor.get_piece_size() + 1

    def fit(self, texts: Iterable[str]) -> None:
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter([normalize_text(text) for text in texts]),
                model_writer=model,
                vocab_size=self.num_pieces,
                model_type=self.model_type,
                character_coverage=1.0,
                bos_id=-1,
                eos_id=-1,
                unk_id=0,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).rsplit("] ", 1)[-1].strip()
            raise ValueError(
                f"`num_pieces` does not suit the training texts, got {self.num_pieces}: {reason}"
            ) from None
        self._set_model(model.getvalue())

    def encode(self, text: str) -> list[int]:
        assert self._processor is not None, "fit or load the tokenizer first"
        pieces = self._processor.encode(normalize_text(text))
        if 0 in pieces:
            known = {character for piece in range(1, self._processor.get_piece_size())
                     for character in self._processor.id_to_piece(piece)}  # fmt: skip
            unknown = sorted(set(normalize_text(text)) - known - {" "})
            raise ValueError(f"the tokenizer lacks the character(s) {', '.join(map(repr, unknown))} of {text!r}")
        return [piece + 1 for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        assert self._processor is not None, "fit or load the tokenizer first"
        return " ".join(self._processor.decode([label - 1 for label in ids if label > 1]).split())

    def label_text(self, label: int) -> str:
        assert self._processor is not None, "fit or load the tokenizer first"
        piece: str = self._processor.id_to_piece(label - 1)
        return "" if label == 1 else piece.replace(_WORD_MARK, " ")

    def files(self) -> dict[str, bytes]:
        return {"tokens.model": self._model}

    def load_files(self, files: Mapping[str, bytes]) -> None:
        if not files.get("tokens.model"):
            raise ValueError("tokens.model, the SentencePiece model, is missing")
        try:
            self._set_model(files["tokens.model"])
        except RuntimeError:
            raise ValueError("tokens.model is not a SentencePiece model") from None
