"""The compiled search against its reference, and what it is for: words, hotwords, N-best, odd input."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from beam_cases import SENTENCES, TOKENIZERS, WORDS, label_texts, random_case
from torch import Tensor

from speechkit.decoding import BeamSearch, Hypothesis, Lexicon, beam_kernels, greedy_decode, train_kneser_ney
from speechkit.decoding.log_probs import split_log_probs
from speechkit.decoding.prefix_beam_reference import prefix_beam_search
from speechkit.text import CharTokenizer, VocabularyTokenizer, WordTokenizer

LETTERS = CharTokenizer(" abcdefghijklmnopqrstuvwxyz")


def random_logits(num_frames: int, num_symbols: int, *, seed: int = 0, scale: float = 2.0, batch: int = 1) -> Tensor:
    return scale * torch.randn(batch, num_frames, num_symbols, generator=torch.Generator().manual_seed(seed))


def decode(search: BeamSearch, logits: Tensor, **options: Any) -> list[Hypothesis]:
    (hypotheses,) = search.decode(logits, torch.tensor([logits.shape[1]]), **options)
    return hypotheses


def heard(*alternatives: str) -> Tensor:
    """Logits (1, T, 28) in which each place has the first of some letters, the others 1 nat behind; "" is a blank."""
    logits = torch.full((1, 2 * len(alternatives), LETTERS.vocab_size), -10.0)
    logits[0, 1::2, 0] = 10.0
    for place, letters in enumerate(alternatives):
        for rank, letter in enumerate(letters):
            logits[0, 2 * place, 0 if letter == "-" else LETTERS.encode(letter)[0] if letter != " " else 1] = (
                10.0 - rank
            )
    return logits


def best_text(logits: Tensor, **options: Any) -> str:
    return LETTERS.decode(decode(BeamSearch(tokenizer=LETTERS, **options), logits)[0].labels)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(40))
def test_all_hypotheses_are_those_of_the_reference(kind: str, seed: int) -> None:
    case = random_case(kind, seed)
    num_frames = (1, 2, 5, 12, 25)[seed % 5]
    logits = random_logits(num_frames, case.tokenizer.vocab_size, seed=seed, scale=(0.5, 2.0, 5.0)[seed % 3])
    (log_probs,) = split_log_probs(logits, torch.tensor([num_frames]), case.tokenizer.vocab_size)
    pruning = case.pruning
    expected = prefix_beam_search(log_probs.double().numpy(), label_texts(case.tokenizer), case.text_score(), **pruning)
    labels, stops, scores = beam_kernels.search(log_probs.numpy(), BeamSearch(**case.arguments())._tables, 1000)
    found = [row.tolist() for row in np.split(labels, stops[:-1])]
    assert found == [hypothesis.labels for hypothesis in expected]
    np.testing.assert_allclose(scores, [x[1:4] for x in expected], rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("seed", range(20))
def test_texts_differ_and_the_best_of_all_is_the_first_alone(kind: str, seed: int) -> None:
    case = random_case(kind, seed)
    search = BeamSearch(**case.arguments())
    logits = random_logits(12, case.tokenizer.vocab_size, seed=seed)
    found = decode(search, logits, num_best=5)
    texts = [hypothesis.text(case.tokenizer) for hypothesis in found]
    assert 1 <= len(texts) == len(set(texts)) <= 5
    assert [x.score for x in found] == sorted((x.score for x in found), reverse=True)
    assert decode(search, logits) == found[:1]


def test_of_words_that_sound_alike_the_likeliest_sentence_is_taken() -> None:
    tokenizer = TOKENIZERS["phonemes"]
    model = train_kneser_ney(["a bb a", "a bb a", "b cab", "b cab", "ab b", "cc bb"] * 2, order=2)
    search = BeamSearch(tokenizer=tokenizer, language_model=model, lm_weight=1.0)
    alike = {"b": ["b", "bb"], "a": ["a"], "ab": ["ab", "cc"], "cab": ["cab"]}
    chosen = set()
    for sounds in ("a b a", "b cab", "b cab b", "b b b", "ab b", "a ab a", "b ab"):
        sentences = [" ".join(words) for words in itertools.product(*(alike[word] for word in sounds.split()))]
        likeliest = max(sum(model.score(sentence.split())) for sentence in sentences)
        labels = torch.tensor([label for one in tokenizer.encode(sounds) for label in (one, 0)])
        (best, *_) = decode(search, 20.0 * torch.nn.functional.one_hot(labels[None], tokenizer.vocab_size))
        assert best.text(tokenizer) in sentences
        assert sum(model.score(best.words)) == pytest.approx(likeliest)
        assert best.lm_score <= likeliest + 1e-6
        chosen.add(best.text(tokenizer))
    assert {"a bb a", "b cab"} <= chosen
    assert decode(BeamSearch(tokenizer=tokenizer), random_logits(5, tokenizer.vocab_size))[0].words is None


def test_all_pronunciations_give_the_word_and_no_other_word_is_possible() -> None:
    tokenizer = TOKENIZERS["phonemes"]
    search = BeamSearch(tokenizer=tokenizer, lexicon=Lexicon(["bb", "cab"]))
    texts = set()
    for seed in range(40):
        texts |= {word for best in decode(search, random_logits(8, 5, seed=seed)) for word in best.words or ()}
    assert texts == {"bb", "cab"}
    assert len(tokenizer.spellings("bb")) == 2
    for labels in tokenizer.spellings("bb"):
        path = torch.tensor([[label for one in labels for label in (one, 0)]])
        assert decode(search, 20.0 * torch.nn.functional.one_hot(path, 5))[0].words == ("bb",)


def test_score_is_the_sum_of_its_parts() -> None:
    model = train_kneser_ney(SENTENCES, order=2)
    search = BeamSearch(tokenizer=TOKENIZERS["char"], language_model=model, lm_weight=0.7, word_bonus=0.3)
    for hypothesis in decode(search, random_logits(20, 5), num_best=5):
        words = TOKENIZERS["char"].decode(hypothesis.labels).split()
        assert hypothesis.lm_score == pytest.approx(sum(model.score(words)))
        unknown = sum(word not in model.word_ids for word in words)
        parts = hypothesis.acoustic_score + 0.7 * hypothesis.lm_score + 0.3 * len(words) - 10.0 * unknown
        assert hypothesis.score == pytest.approx(parts)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_sure_logits_give_what_greedy_gives(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    generator = torch.Generator().manual_seed(0)
    path = torch.randint(0, tokenizer.vocab_size, (1, 30), generator=generator)
    path[path == 1] = 0  # of pieces the unknown one, of characters the space, which may stand twice
    logits = 50.0 * torch.nn.functional.one_hot(path, tokenizer.vocab_size)
    (labels,) = greedy_decode(logits, torch.tensor([30]))
    assert decode(BeamSearch(tokenizer=tokenizer, beam_size=5), logits)[0].labels == labels


def test_alignments_of_one_text_add_up() -> None:
    logits = torch.tensor([[[0.4, 0.3, 0.3], [0.4, 0.3, 0.3]]]).log()  # greedy gives nothing at 0.16
    hypotheses = decode(BeamSearch(tokenizer=CharTokenizer("ab"), num_best=9), logits)
    assert {tuple(x.labels): round(math.exp(x.score), 6) for x in hypotheses} == {
        (1,): 0.33,  # a-, -a, aa
        (2,): 0.33,
        (): 0.16,
        (1, 2): 0.09,
        (2, 1): 0.09,
    }


def test_spaces_that_add_nothing_to_a_text_are_left_out() -> None:
    logits = 20.0 * torch.nn.functional.one_hot(torch.tensor([[1, 0, 2, 1, 0, 1, 1, 3, 0, 1]]), 5)
    hypotheses = decode(BeamSearch(tokenizer=TOKENIZERS["char"], num_best=3), logits)
    assert hypotheses[0].labels == [2, 1, 3]
    assert hypotheses[0].score == pytest.approx(0.0, abs=1e-6)


def test_batch_equals_each_alone_whatever_the_padding_and_the_threads() -> None:
    logits, lengths = random_logits(30, 5, batch=4), torch.tensor([30, 1, 17, 0])
    alone = [
        BeamSearch(tokenizer=TOKENIZERS["char"]).decode(logits[i : i + 1, :length], torch.tensor([length]))[0]
        for i, length in enumerate(lengths.tolist())
    ]
    logits[1, 1:], logits[3] = torch.nan, math.inf
    assert BeamSearch(tokenizer=TOKENIZERS["char"]).decode(logits, lengths) == alone
    assert BeamSearch(tokenizer=TOKENIZERS["char"], num_threads=3).decode(logits, lengths) == alone


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (1, 0), (2, 0)])
def test_nothing_to_decode_is_the_empty_text(shape: tuple[int, int]) -> None:
    found = BeamSearch(tokenizer=TOKENIZERS["char"]).decode(torch.zeros(*shape, 5), torch.zeros(shape[0], dtype=int))
    assert found == [[Hypothesis([], 0.0, 0.0, 0.0)]] * shape[0]


def test_one_label_and_a_beam_of_one() -> None:
    search = BeamSearch(tokenizer=CharTokenizer("a"), beam_size=1)
    assert decode(search, 9.0 * torch.tensor([[[0, 1], [0, 1], [1, 0], [0, 1]]]))[0].labels == [1, 1]


def test_many_ties_push_nothing_better_out() -> None:
    logits = torch.zeros(1, 7, LETTERS.vocab_size)
    logits[0, range(7), LETTERS.encode("the cap")] = 9.0
    logits[0, 6, LETTERS.encode("t")] = 8.5
    hypotheses = decode(BeamSearch(tokenizer=LETTERS), logits, num_best=2)
    assert [LETTERS.decode(hypothesis.labels) for hypothesis in hypotheses] == ["the cap", "the cat"]


def test_ties_and_impossible_symbols_are_taken() -> None:
    search = BeamSearch(tokenizer=TOKENIZERS["char"], beam_size=7, num_best=100)
    assert 1 <= len(decode(search, torch.zeros(1, 40, 5))) <= 7
    logits = torch.full((1, 3, 5), -math.inf)
    logits[0, [0, 1, 2], [2, 3, 2]] = 0.0
    assert decode(search, logits)[0] == Hypothesis([2, 3, 2], 0.0, 0.0, 0.0)


def test_num_best_of_the_call_goes_before_that_of_the_search() -> None:
    search = BeamSearch(tokenizer=TOKENIZERS["char"], num_best=2)
    logits = random_logits(10, 5)
    assert len(decode(search, logits)) == 2
    assert decode(search, logits, num_best=4)[:2] == decode(search, logits)


def test_scores_fall_and_texts_differ() -> None:
    hypotheses = decode(BeamSearch(tokenizer=TOKENIZERS["char"], num_best=50), random_logits(30, 5))
    assert [x.score for x in hypotheses] == sorted((x.score for x in hypotheses), reverse=True)
    assert len({TOKENIZERS["char"].decode(x.labels) for x in hypotheses}) == len(hypotheses) > 10


def test_language_model_decides_between_what_sounds_alike() -> None:
    model = train_kneser_ney(["the cat sat", "the cat ran", "a cap fell"], order=2)
    logits = heard("t", "h", "e", " ", "c", "a", "pt")
    assert best_text(logits) == "the cap"
    assert best_text(logits, language_model=model, lm_weight=2.0) == "the cat"
    assert best_text(logits, language_model=model, lm_weight=0.0) == "the cap"


def test_a_hyphen_of_another_toolkits_vocabulary_parts_words_for_the_language_model() -> None:
    tokenizer = VocabularyTokenizer("- welknoma")
    model = train_kneser_ney(["well known man", "known well"] * 3, order=2)
    path = [label for symbol in "well-known" for label in (tokenizer.symbols.index(symbol) + 1, 0)]
    logits = 20.0 * torch.nn.functional.one_hot(torch.tensor([path]), tokenizer.vocab_size)
    for options in ({}, {"lexicon": Lexicon(["well", "known", "man"])}):
        search = BeamSearch(tokenizer=tokenizer, language_model=model, **options)
        best, *others = decode(search, logits, num_best=3)
        assert best.text(tokenizer) == "well known"
        assert best.lm_score == pytest.approx(sum(model.score(["well", "known"])))
        assert best.acoustic_score == pytest.approx(0.0, abs=1e-3)
        assert "well known" not in {other.text(tokenizer) for other in others}


def test_capitals_of_a_language_model_do_not_matter() -> None:
    small, capital = (train_kneser_ney(["the cat sat", "a cap fell"], order=2) for _ in range(2))
    capital.words = [word if word.startswith("<") else word.upper() for word in capital.words]
    logits = heard("t", "h", "e", " ", "c", "a", "pt")
    found = [decode(BeamSearch(tokenizer=LETTERS, language_model=model), logits) for model in (small, capital)]
    assert found[0] == found[1]


def test_lexicon_lets_no_other_word_through() -> None:
    search = BeamSearch(tokenizer=TOKENIZERS["char"], lexicon=Lexicon(["ab", "cc"]), num_best=20)
    for seed in range(10):
        for hypothesis in decode(search, random_logits(15, 5, seed=seed)):
            assert {*TOKENIZERS["char"].decode(hypothesis.labels).split()} <= {"ab", "cc"}


def test_a_word_that_the_lexicon_leaves_unfinished_is_cut_off() -> None:
    logits = heard("a", " ", "c", "a")
    assert best_text(logits, lexicon=Lexicon(["a", "cat"]), beam_size=1) == "a"
    assert best_text(logits[:, 4:], lexicon=Lexicon(["cat"]), beam_size=1) == ""


def test_hotword_is_found_and_only_as_a_whole_word() -> None:
    logits = heard("c", "a", "pt")
    assert best_text(logits) == "cap"
    assert best_text(logits, hotwords=["cat"]) == "cat"
    assert best_text(logits, hotwords=["ca"]) == "cap"
    assert best_text(logits, hotwords=["cats"]) == "cap"
    assert best_text(logits, hotwords={"cat": 0.9}) == "cap"
    assert best_text(logits, hotwords={"cat": 1.1}) == "cat"


def test_phrase_of_hotwords_earns_for_each_word() -> None:
    logits = heard("pb", "i", "g", " ", "d", "u", "gc", "k")
    assert best_text(logits, hotwords={"big duck": 0.9}) == "pig dugk"
    assert best_text(logits, hotwords={"Big Duck!": 1.1}) == "big duck"


def test_of_words_that_sound_alike_the_hotword_is_taken() -> None:
    tokenizer = TOKENIZERS["phonemes"]
    model = train_kneser_ney(["a b a", "b a b"] * 3, order=2)  # "bb", of the sound of "b", is unknown to it

    def hears(labels: list[int], *hotwords: str) -> str:
        path = torch.tensor([[label for one in labels for label in (one, 0)]])
        logits = 20.0 * torch.nn.functional.one_hot(path, tokenizer.vocab_size)
        search = BeamSearch(tokenizer=tokenizer, language_model=model, hotwords=hotwords, lm_weight=0.3)
        (best,) = decode(search, logits)
        assert best.lm_score == pytest.approx(sum(model.score(best.words or ())))
        return best.text(tokenizer)

    said = tokenizer.encode("a b a")
    assert [hears(said), hears(said, "bb"), hears(said, "a bb"), hears(said, "bb b")] == [
        "a b a",
        "a bb a",
        "a bb a",
        "a b a",
    ]
    assert hears(tokenizer.spellings("bb")[1], "bb") == "bb"  # by its second pronunciation, which nothing else has


def test_a_hotword_is_no_surprise_to_the_language_model() -> None:
    model = train_kneser_ney(["the cat sat", "the cat ran"] * 3, order=2)
    logits = heard("t", "h", "e", " ", "kc", "a", "t")  # the k is 1 nat ahead
    options: dict[str, Any] = {"language_model": model, "lm_weight": 0.2}
    assert best_text(logits, **options) == "the cat"
    assert best_text(logits, **options, hotwords={"kat": 3.0}) == "the kat"
    assert best_text(logits, **options, hotwords={"kat": 3.0}, lexicon=Lexicon(["the", "cat"])) == "the cat"


def test_what_is_no_beginning_or_end_of_a_sentence_is_not_scored_as_one() -> None:
    model = train_kneser_ney(["a b c", "a b c", "c a b"], order=2)
    search = BeamSearch(tokenizer=LETTERS, language_model=model, lm_weight=1.0)
    logits, frames = heard("b", " ", "c").repeat(3, 1, 1), torch.tensor([6, 6, 6])
    found = search.decode(logits, frames, begins=[True, True, False], ends=[True, False, False])
    for (best,), begin, end in zip(found, (True, True, False), (True, False, False), strict=True):
        assert best.lm_score == pytest.approx(sum(model.score(["b", "c"], begin=begin, end=end)))


@pytest.mark.parametrize("hotwords", [{"ab": 2.0}, {"ab": 2.0, "ab b": 1.0}])
def test_what_hotwords_add_is_in_the_score(hotwords: dict[str, float]) -> None:
    search = BeamSearch(tokenizer=TOKENIZERS["char"], hotwords=hotwords, num_best=30)
    for hypothesis in decode(search, random_logits(15, 5, seed=3)):
        words = TOKENIZERS["char"].decode(hypothesis.labels).split()
        pairs = list(itertools.pairwise(words))
        added = 2.0 * words.count("ab") + ("ab b" in hotwords) * 2.0 * pairs.count(("ab", "b"))
        assert hypothesis.score - hypothesis.acoustic_score == pytest.approx(added)


def test_word_bonus_divides_words_where_labels_may() -> None:
    logits = heard("a", "- ", "a")
    assert best_text(logits) == "aa"
    assert best_text(logits, word_bonus=1.1) == "a a"
    assert best_text(logits, word_bonus=1.1, token_threshold=-1.0) == "aa"
    assert best_text(logits, word_bonus=1.1, token_beam_size=1) == "aa"


@pytest.mark.parametrize("threshold", [0.5, 2.0, 4.0])
def test_threshold_drops_what_is_further_behind(threshold: float) -> None:
    search = BeamSearch(tokenizer=TOKENIZERS["char"], beam_size=10**4, beam_threshold=threshold, num_best=10**4)
    scores = [hypothesis.score for hypothesis in decode(search, random_logits(20, 5))]
    assert 0.8 * threshold < scores[0] - scores[-1] <= threshold + math.log(2.0)  # each is the sum of two ways to end


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_size": 0}, "`beam_size` must be at least 1, got 0"),
        ({"num_best": 0}, "`num_best` must be at least 1, got 0"),
        ({"num_threads": 0}, "`num_threads` must be at least 1, got 0"),
        ({"token_beam_size": 0}, "`token_beam_size` must be at least 1, got 0"),
        ({"token_threshold": 1.0}, "`token_threshold` must be .* got 1.0"),
        ({"beam_threshold": 0.0}, "`beam_threshold` must be positive, got 0.0"),
        ({"beam_threshold": math.nan}, "`beam_threshold` must be positive, got nan"),
        ({"lm_weight": -1.0}, "`lm_weight` must be finite and not negative, got -1.0"),
        ({"unknown_penalty": math.inf}, "`unknown_penalty` must be finite and not negative, got inf"),
        ({"word_bonus": math.nan}, "`word_bonus` must be finite, got nan"),
        ({"tokenizer": CharTokenizer()}, "`tokenizer` must have labels, got one that is not fitted yet"),
        ({"hotwords": "ab"}, "`hotwords` must be a sequence of phrases or a mapping, got the string 'ab'"),
        ({"hotwords": ["ab", "x1"]}, r"`hotwords`: the tokenizer lacks the character\(s\) '1', 'x' of 'x1'"),
        ({"hotwords": ["?"]}, r"`hotwords` must hold letters or digits, got '\?'"),
        ({"hotwords": {"ab": -1.0}}, "`hotwords` must have positive finite boosts, got -1.0 for 'ab'"),
        ({"hotwords": ["ab"], "hotword_boost": 0.0}, "`hotwords` must have positive finite boosts, got 0.0 for 'ab'"),
        ({"lexicon": Lexicon(["ab", "xyz"])}, "`lexicon`: the tokenizer cannot spell 'xyz'"),
        ({"lexicon": Lexicon(["x", "y", "z", "xy"])}, "cannot spell 'x', 'xy', 'y' and 1 more"),
        (
            {"language_model": train_kneser_ney(["x y"], order=1)},
            "`language_model` must have .* with other tokens: .*'x'",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        BeamSearch(**{"tokenizer": TOKENIZERS["char"], **arguments})


def test_word_labels_take_only_hotwords_and_lexicons_of_their_own() -> None:
    tokenizer = WordTokenizer(WORDS)
    with pytest.raises(ValueError, match=r"`hotwords`: the tokenizer lacks the word\(s\) 'ba' of 'a ba'"):
        BeamSearch(tokenizer=tokenizer, hotwords=["a ba"])
    with pytest.raises(ValueError, match="`lexicon`: the tokenizer cannot spell 'ba'"):
        BeamSearch(tokenizer=tokenizer, lexicon=Lexicon(["a", "ba"]))


@pytest.mark.parametrize(
    ("logits", "lengths", "message"),
    [
        (torch.zeros(2, 3, 4), [3, 3], r"`logits` must have the shape \(B, T, 5\), got \(2, 3, 4\)"),
        (torch.zeros(3, 5), [3], r"`logits` must have the shape \(B, T, 5\), got \(3, 5\)"),
        (torch.zeros(2, 3, 5), [3, 4], r"`lengths` must be 2 numbers from 0 to 3, got \[3, 4\]"),
        (torch.zeros(2, 3, 5), [3], r"`lengths` must be 2 numbers from 0 to 3, got \[3\]"),
        (torch.full((1, 3, 5), torch.nan), [3], "`logits` must be finite, .* in utterance 0"),
        (torch.full((1, 3, 5), -math.inf), [3], "`logits` must be finite, .* in utterance 0"),
    ],
)
def test_wrong_logits_are_named(logits: Tensor, lengths: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BeamSearch(tokenizer=TOKENIZERS["char"]).decode(logits, torch.tensor(lengths))


def test_wrong_num_best_of_the_call_is_named() -> None:
    with pytest.raises(ValueError, match="`num_best` must be at least 1, got 0"):
        decode(BeamSearch(tokenizer=TOKENIZERS["char"]), torch.zeros(1, 3, 5), num_best=0)
