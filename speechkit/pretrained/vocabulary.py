"""The labels of another toolkit's CTC model -> speechkit's, in which the blank is 0 and texts are normalised."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechkit.pretrained.checkpoint import read_json, read_optional_json
from speechkit.text import VocabularyTokenizer

_TOKENIZERS = ("Wav2Vec2CTCTokenizer", "Wav2Vec2Tokenizer")
_DEFAULTS = {  # of Wav2Vec2CTCTokenizer
    "pad_token": "<pad>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "word_delimiter_token": "|",
}


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and for each of its ids, the blank first, the row of the other toolkit's head."""

    tokenizer: VocabularyTokenizer
    rows: list[int]


def make_vocabulary(
    tokens: Sequence[str], *, blank: str, word_delimiter: str | None, silent: Collection[str] = ()
) -> Vocabulary:
    """Every row of the head is kept, so that its logits and probabilities stay what they were.

    Args:
        tokens: of the head's rows, in order.
        blank: the token that is CTC's blank.
        word_delimiter: the token between words; none in languages that have no such thing.
        silent: tokens that write nothing.

    Raises:
        ValueError: no such blank, or a token twice.
    """
    if blank not in tokens:
        raise ValueError(f"lacks the token {blank!r}, which is CTC's blank")
    first = tokens.index(blank)
    others = [row for row in range(len(tokens)) if row != first]
    lower = Counter(token.lower() for token in tokens)
    symbols = []
    for token in (tokens[row] for row in others):
        if token == word_delimiter:
            symbols.append(" ")
        elif token in silent or lower[token.lower()] > 1:  # of "A" and "a", texts in lower case are made of the latter
            symbols.append(token)
        else:
            symbols.append(token.lower())
    tokenizer = VocabularyTokenizer(symbols, silent=[token for token in silent if token in symbols])
    return Vocabulary(tokenizer, [first, *others])


def read_vocabulary(folder: Path, num_rows: int) -> Vocabulary:
    """That of a `Wav2Vec2CTCTokenizer`: vocab.json, and the roles of tokens from the files beside it.

    Args:
        folder: the checkpoint.
        num_rows: of the head. Tokens that were added beyond them stand for nothing that it can say.

    Raises:
        ValueError: a file is missing, another tokenizer, not one token for each row, or no blank; one line.
    """
    path = folder / "vocab.json"
    tokens = read_json(path)
    config = read_optional_json(folder / "tokenizer_config.json")
    if (kind := config.get("tokenizer_class") or _TOKENIZERS[0]) not in _TOKENIZERS:
        raise ValueError(f"{folder / 'tokenizer_config.json'}: `tokenizer_class` must be {_TOKENIZERS[0]}, got {kind}.")
    if not all(isinstance(row, int) for row in tokens.values()):
        raise ValueError(f"{path}: must map tokens to rows; vocabularies of several languages are not read")
    added = read_optional_json(folder / "added_tokens.json")
    by_row = {row: token for token, row in added.items() if row < num_rows}
    by_row |= {row: token for token, row in tokens.items()}
    if sorted(by_row) != list(range(num_rows)):
        raise ValueError(f"{path}: must have one token for each of the {num_rows} rows of lm_head, has {len(by_row)}")
    roles = {**_DEFAULTS, **read_optional_json(folder / "special_tokens_map.json"), **config}
    blank, *silent, delimiter = (_content(roles[role]) for role in _DEFAULTS)
    try:
        return make_vocabulary(
            [by_row[row] for row in range(num_rows)],
            blank=str(blank),
            word_delimiter=delimiter,
            silent=[token for token in silent if token is not None],
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _content(token: Any) -> str | None:
    """A special token, which newer files describe and older ones name."""
    return token.get("content") if isinstance(token, dict) else token
