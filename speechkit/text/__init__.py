"""Text normalisation and tokenizers (they own the blank id)."""

from speechkit.text.normalization import normalize_text
from speechkit.text.tokenizers import CharTokenizer, SentencePieceTokenizer, Tokenizer, WordTokenizer

__all__ = ["CharTokenizer", "SentencePieceTokenizer", "Tokenizer", "WordTokenizer", "normalize_text"]
