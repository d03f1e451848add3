"""Random searches: tokenizers, language models, lexicons, hotwords and weights, the same for a seed."""

import math
import random
from typing import Any, NamedTuple

from speechkit.decoding import Lexicon, NGram, train_kneser_ney
from speechkit.decoding.hotwords import check_hotwords, spell_hotwords
from speechkit.decoding.lexicon import find_words
from speechkit.decoding.prefix_beam_reference import TextScore
from speechkit.text import CharTokenizer, PhonemeTokenizer, SentencePieceTokenizer, Tokenizer, WordTokenizer

WORDS = ["a", "ab", "abc", "b", "bb", "cab", "cc"]
SENTENCES = [" ".join(random.Random(seed).choices(WORDS, k=4)) for seed in range(12)]


SOUNDS = {
    "a": ["A"],
    "ab": ["A B"],
    "abc": ["A BB"],
    "b": ["B"],
    "bb": ["B", "B B"],
    "cab": ["BB A"],
    "cc": ["A B", "BB"],
}


def make_phonemes() -> PhonemeTokenizer:
    """Three phonemes, words that sound alike, and words with two pronunciations."""
    lines = (f"{word} {phonemes}\n" for word, found in SOUNDS.items() for phonemes in found)
    tokenizer = PhonemeTokenizer()
    tokenizer.load_files({"lexicon.txt.gz": "".join(lines).encode()})
    return tokenizer


def make_tokenizer(kind: str) -> Tokenizer:
    if kind == "word":
        return WordTokenizer(WORDS[:5])
    if kind == "phonemes":
        return make_phonemes()
    tokenizer = CharTokenizer(" abc") if kind == "char" else SentencePieceTokenizer(num_pieces=12)
    if kind == "pieces":
        tokenizer.fit(SENTENCES)
    return tokenizer


TOKENIZERS = {kind: make_tokenizer(kind) for kind in ("char", "word", "pieces", "phonemes")}


def label_texts(tokenizer: Tokenizer) -> list[str]:
    return ["", *map(tokenizer.label_text, range(1, tokenizer.vocab_size))]


class Case(NamedTuple):
    tokenizer: Tokenizer
    language_model: NGram | None
    lexicon: Lexicon | None
    hotwords: dict[str, float]
    weights: dict[str, Any]
    pruning: dict[str, Any]

    def text_score(self) -> TextScore:
        hotwords = check_hotwords(self.hotwords, 1.0, self.tokenizer)
        return TextScore(
            words=find_words(self.tokenizer, self.language_model, self.lexicon, hotwords),
            closed=self.lexicon is not None or (bool(self.language_model) and not self.tokenizer.spells_any_word),
            language_model=self.language_model,
            hotwords=spell_hotwords(hotwords, self.tokenizer),
            **self.weights,
        )

    def arguments(self) -> dict[str, Any]:
        parts = {"language_model": self.language_model, "lexicon": self.lexicon, "hotwords": self.hotwords}
        return {"tokenizer": self.tokenizer, **parts, **self.weights, **self.pruning}


def random_case(kind: str, seed: int) -> Case:
    generator = random.Random(f"{kind} {seed}")
    tokenizer = TOKENIZERS[kind]
    words = WORDS[:5] if kind == "word" else WORDS
    phrases = [
        " ".join(generator.choices(words, k=generator.choice([1, 1, 2]))) for _ in range(generator.choice([0, 2]))
    ]
    pruning: dict[str, Any] = {
        "beam_size": generator.choice([1, 2, 3, 8, 20]),
        "beam_threshold": generator.choice([math.inf, 3.0, 10.0]),
    }
    if generator.random() < 0.3:
        pruning["token_beam_size"] = generator.randint(1, 4)
    if generator.random() < 0.3:
        pruning["token_threshold"] = -generator.uniform(0, 4)
    return Case(
        tokenizer,
        train_kneser_ney(generator.sample(SENTENCES, k=4), order=3) if generator.random() < 0.6 else None,
        Lexicon(generator.sample(words, k=3)) if generator.random() < 0.4 else None,
        {phrase: generator.uniform(0.5, 4) for phrase in phrases},
        {
            "lm_weight": generator.uniform(0, 2),
            "word_bonus": generator.uniform(-2, 2),
            "unknown_penalty": generator.uniform(0, 3),
            "sentence_end": generator.random() < 0.5,
        },
        pruning,
    )
