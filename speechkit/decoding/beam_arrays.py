"""The memory of a beam search in Numba: what it looks up, and what it writes. T frames, V symbols, beam of K."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from speechkit.decoding.hotwords import HotwordTables
from speechkit.decoding.lexicon import WordTrie
from speechkit.decoding.ngram import NGramTables

Array = NDArray[Any]

NODE = np.dtype(  # a prefix that is or was in the beam; node 0 is the empty one
    [
        ("parent", np.int32),  # node of all its labels but the last, -1 if it has none
        ("label", np.int32),  # the last one
        ("place", np.int32),  # in the beam, -1 if it is not there
    ],
    align=True,
)
TEXT = np.dtype(  # what a prefix says
    [
        ("word", np.int32),  # node of the word trie, 0 between words; -1: not known yet
        ("lm_state", np.int32),
        ("hotword_state", np.int32),
        ("settled", np.float64),  # added to the score for good; -inf where the text is impossible
        ("ahead", np.float64),  # added as long as the word and the hotword go on that have begun
        ("lm_score", np.float64),  # the language model's part, without its weight
    ],
    align=True,
)
PLACE = np.dtype(  # a prefix in the beam, and the log-probability of its paths
    [
        ("node", np.int32),
        ("last", np.int32),  # its last label; of the empty prefix the separator
        ("blank", np.float64),  # of the paths that end in a blank
        ("label", np.float64),  # of those that end in the last label
        ("total", np.float64),  # of both
        ("added", np.float64),  # to the score, by the text
        ("ended", np.float64),  # bound of the score when the last word is ended
        ("unknown", np.float64),  # bound of the score when it goes on as no known word does
        ("next_characters", np.uint64),  # with which it goes on as a known word does, see `WordTrie`
    ],
    align=True,
)
CANDIDATE = np.dtype(  # a prefix in the beam and one more label
    [
        ("parent", np.int32),
        ("label", np.int32),
        ("node", np.int32),  # -1 if it has none yet
        ("total", np.float64),  # log-probability of its paths, which all end in the label
        ("score", np.float64),
    ],
    align=True,
)


class Labels(NamedTuple):
    """What each of V labels adds to a text; S characters in all."""

    characters: Array  # (S,) int32, ids in the alphabet, spaces left out
    stops: Array  # (V,) int64, one past the last character of each label
    begins_word: Array  # (V,) bool, it ends the word before it
    gains: Array  # (V,) float64, the most that it can add to a score beside its log-probability; -inf for no text
    first_bits: Array  # (V,) uint64, its first character as in `WordTrie.next_characters`
    starts: Array  # (V,) int32, where it leads to from the root of the word trie
    separator: int  # the label that is only a space, -1 if there is none
    are_words: bool  # each is a whole word


class Options(NamedTuple):
    """As in `speechkit.decoding.BeamSearch`, which checks them."""

    beam_size: int
    beam_threshold: float
    token_beam_size: int
    token_threshold: float
    has_lm: bool
    lm_weight: float
    word_gain: float  # the most that the end of a word can add to a score
    begin_state: int  # of the language model
    end_id: int  # of </s>, -1 if it is not to be scored


class Tables(NamedTuple):
    """What the search looks up and does not change."""

    labels: Labels
    trie: WordTrie
    ngram: NGramTables
    hotwords: HotwordTables
    options: Options


class Prefixes(NamedTuple):
    """All that have been in the beam. Memory is taken as they are written."""

    nodes: Array  # (T K + 1,) NODE
    texts: Array  # (T K + 1,) TEXT
    finished: Array  # (T K + 1,) TEXT, the same with the last word ended, once it has been asked for


class Workspace(NamedTuple):
    """What a frame is worked out in."""

    beam: Array  # (K,) PLACE, before the frame
    stayed: Array  # (K,) PLACE, after it, no label added
    found: Array  # (2 K,) CANDIDATE
    texts: Array  # (2 K,) TEXT, theirs
    scratch: Array  # (max(4 K, V),) float64
