"""Text normalisation and tokenizers (they own the blank id)."""

from speechkit.text.normalization import normalize_text
from speechkit.text.phonemes import PhonemeTokenizer
from speechkit.text.tokenizers import (
    CharTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    VocabularyTokenizer,
    WordTokenizer,
)

__all__ = [
    "CharTokenizer",
    "PhonemeTokenizer",
    "SentencePieceTokenizer",
    "Tokenizer",
    "VocabularyTokenizer",
    "WordTokenizer",
    "normalize_text",
]
