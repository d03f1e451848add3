"""What a beam search is asked for -> the arrays that its kernels look up."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from speechkit.decoding.beam_arrays import Labels, Options, Tables
from speechkit.decoding.hotwords import HotwordTables, build_hotword_tables
from speechkit.decoding.lexicon import KnownWord, WordScore, WordTrie, build_word_trie
from speechkit.decoding.ngram import NGram, NGramTables, advance, find_child
from speechkit.text import Tokenizer

NO_LANGUAGE_MODEL = NGramTables(
    keys=np.full(1, -1, np.int64),
    children=np.zeros(1, np.int32),
    log_probs=np.zeros(1, np.float32),
    backoffs=np.zeros(1, np.float32),
    suffixes=np.zeros(1, np.int32),
    is_context=np.zeros(1, np.bool_),
)


def build_tables(
    *,
    tokenizer: Tokenizer,
    words: Mapping[str, Sequence[KnownWord]],
    is_closed: bool,
    language_model: NGram | None,
    hotwords: Mapping[str, float],
    lm_weight: float,
    word_bonus: float,
    unknown_penalty: float,
    sentence_end: bool,
    **pruning: Any,
) -> Tables:
    """Builds the tables.

    Args:
        words: the known words, by what their labels write.
        is_closed: no other words are possible.
        hotwords: phrase, as labels write it -> nats for each of its words.
        pruning: `beam_size`, `beam_threshold`, `token_beam_size` and `token_threshold`; the other arguments are those
            of `speechkit.decoding.BeamSearch`.
    """
    label_texts = ["", *tokenizer.label_texts()]
    alphabet = {" ": 0}
    for character in "".join([*label_texts, *words]):
        alphabet.setdefault(character, len(alphabet))

    def score(word: KnownWord) -> WordScore:
        if language_model is None:
            return WordScore(word.word_id, end=word_bonus, look_ahead=0.0)
        penalty = word.penalty(language_model, unknown_penalty)
        log_prob, _ = advance(language_model.tables, language_model.begin_state, word.word_id)
        return WordScore(word.word_id, end=word_bonus - penalty, look_ahead=lm_weight * log_prob - penalty)

    unknown = WordScore(0, -np.inf, -np.inf)
    if not is_closed:
        unknown = score(KnownWord("", 0 if language_model is None else language_model.unknown_id))
    scores = {spelling: [score(word) for word in alike] for spelling, alike in words.items()}
    trie = build_word_trie(scores, unknown, alphabet)
    hotword_tables = build_hotword_tables(hotwords, alphabet)
    hotword_gain = _largest_gain(hotword_tables)
    word_gain = max(0.0, word_bonus) + hotword_gain
    return Tables(
        _build_labels(label_texts, tokenizer.space_id, alphabet, trie, hotword_gain, word_gain),
        trie,
        NO_LANGUAGE_MODEL if language_model is None else language_model.tables,
        hotword_tables,
        Options(
            has_lm=language_model is not None,
            lm_weight=float(lm_weight),
            word_gain=word_gain,
            begin_state=0 if language_model is None else language_model.begin_state,
            end_id=language_model.end_id if language_model is not None and sentence_end else -1,
            **pruning,
        ),
    )


def _build_labels(
    label_texts: list[str],
    space_id: int | None,
    alphabet: Mapping[str, int],
    trie: WordTrie,
    hotword_gain: float,
    word_gain: float,
) -> Labels:
    texts = [text.removeprefix(" ") for text in label_texts]
    begins_word = [text.startswith(" ") for text in label_texts]
    are_words = all(text.startswith(" ") and text != " " for text in label_texts if text)
    starts = [_find_node(trie, [alphabet[character] for character in text]) for text in texts]
    gains = []
    for label, text in enumerate(texts):
        gain = hotword_gain * len(text)
        if are_words:  # which end at once
            gain += word_gain
        elif begins_word[label]:
            gain += trie.look_ahead[starts[label]]
        gains.append(gain if label_texts[label] else -np.inf)
    return Labels(
        characters=np.array([alphabet[character] for character in "".join(texts)], np.int32),
        stops=np.cumsum([len(text) for text in texts], dtype=np.int64),
        begins_word=np.array(begins_word),
        gains=np.array(gains),
        first_bits=np.array([1 << alphabet[text[0]] % 64 if text else 0 for text in texts], np.uint64),
        starts=np.array(starts, np.int32),
        separator=-1 if space_id is None else space_id,
        are_words=are_words,
    )


def _find_node(trie: WordTrie, characters: list[int]) -> int:
    node = 0
    for character in characters:
        node = int(find_child(trie.keys, trie.children, node, character))
        if node < 0:
            return len(trie.look_ahead) - 1
    return node


def _largest_gain(hotwords: HotwordTables) -> float:
    """The most that one more character can add."""
    after = hotwords.completed[hotwords.steps] + hotwords.in_progress[hotwords.steps]
    return max(0.0, float((after - hotwords.in_progress[:, None]).max()))
