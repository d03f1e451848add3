"""Tokenizers: text -> ids -> text, with id 0 left to the blank."""

import random

import pytest

from speechkit.parts import build, describe
from speechkit.text import CharTokenizer, SentencePieceTokenizer, Tokenizer, VocabularyTokenizer, WordTokenizer

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "don't", "größe"]
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=6)) for seed in range(40)]
KINDS = {
    "char": lambda: CharTokenizer(),
    "word": lambda: WordTokenizer(),
    "unigram": lambda: SentencePieceTokenizer(num_pieces=30),
    "bpe": lambda: SentencePieceTokenizer(num_pieces=30, model_type="bpe"),
}


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    fitted = KINDS[request.param]()
    fitted.fit(TEXTS)
    return fitted


def rebuilt(tokenizer: Tokenizer) -> Tokenizer:
    copy = build(describe(tokenizer))
    copy.load_files(tokenizer.files())
    return copy


@pytest.mark.parametrize("kind", KINDS)
def test_unfitted_has_only_the_blank(kind: str) -> None:
    assert KINDS[kind]().vocab_size == 1


def test_round_trip(tokenizer: Tokenizer) -> None:
    for text in [*TEXTS, *WORDS, ""]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_text_is_normalized_first(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(" One, TWO; don\u2019t! ") == tokenizer.encode("one two don't")


def test_ids_are_those_of_labels_and_never_the_blank(tokenizer: Tokenizer) -> None:
    ids = {label for text in TEXTS for label in tokenizer.encode(text)}
    assert tokenizer.blank_id not in ids
    assert 1 <= min(ids) <= max(ids) < tokenizer.vocab_size


def test_description_and_files_make_an_equal_one(tokenizer: Tokenizer) -> None:
    copy = rebuilt(tokenizer)
    assert copy.vocab_size == tokenizer.vocab_size
    assert [copy.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]


def test_unknown_symbols_are_named_with_the_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"lacks the (character|word)\(s\) 'q' of 'one q two'"):
        tokenizer.encode("one q two")


def test_any_ids_decode_to_normalized_text(tokenizer: Tokenizer) -> None:
    generator = random.Random(0)
    for _ in range(50):
        ids = generator.choices(range(1, tokenizer.vocab_size), k=8)
        text = tokenizer.decode(ids)
        assert text == " ".join(text.split())
    assert tokenizer.decode([]) == ""


def test_texts_of_labels_make_up_the_text(tokenizer: Tokenizer) -> None:
    generator = random.Random(1)
    for _ in range(50):
        ids = generator.choices(range(1, tokenizer.vocab_size), k=8)
        assert " ".join("".join(map(tokenizer.label_text, ids)).split()) == tokenizer.decode(ids)


def test_a_label_that_begins_a_word_has_a_space_before_it(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        joined = "".join(map(tokenizer.label_text, tokenizer.encode(text)))
        assert joined.lstrip(" ") == text  # so no word but the first begins without one


def test_fitting_does_not_depend_on_the_order_of_texts() -> None:
    first, second = CharTokenizer(), CharTokenizer()
    first.fit(TEXTS)
    second.fit(TEXTS[::-1])
    assert first.symbols == second.symbols == sorted(first.symbols)


def test_given_symbols_are_kept_in_order() -> None:
    tokenizer = WordTokenizer(["no", "yes"])
    assert tokenizer.encode("yes no yes") == [2, 1, 2]
    assert rebuilt(tokenizer).symbols == ["no", "yes"]


def test_characters_decode_without_spaces_at_the_ends() -> None:
    tokenizer = CharTokenizer(" ab")
    assert tokenizer.decode([1, 2, 1, 1, 3, 1]) == "a b"


def test_repeated_symbols_are_refused() -> None:
    with pytest.raises(ValueError, match="`symbols` must not repeat"):
        CharTokenizer("aba")


def test_all_unknown_characters_are_named_once() -> None:
    with pytest.raises(ValueError, match=r"character\(s\) 'x', 'y' of 'xayx'"):
        CharTokenizer("a").encode("xayx")


def test_a_vocabulary_takes_the_longest_symbols_and_keeps_silent_ones_out() -> None:
    tokenizer = VocabularyTokenizer(["a", "ab", "<unk>", " ", "-"], silent=["<unk>"])
    assert tokenizer.encode("Aba ab") == [2, 1, 4, 2]
    assert tokenizer.decode([1, 3, 2, 5, 4, 1]) == "aab a"
    assert rebuilt(tokenizer).decode([3, 2]) == "ab"
    with pytest.raises(ValueError, match=r"character\(s\) 'b', 'u' of 'bau'"):
        tokenizer.encode("bau")


def test_fitting_leaves_a_vocabulary_as_it_is() -> None:
    tokenizer = VocabularyTokenizer("ab")
    tokenizer.fit(["c"])
    assert tokenizer.symbols == ["a", "b"]


@pytest.mark.parametrize(("symbols", "silent"), [("", ()), ("ab", ["<s>"])])
def test_a_vocabulary_that_lacks_its_symbols_is_refused(symbols: str, silent: list[str]) -> None:
    with pytest.raises(ValueError, match="`symbols` must hold all of `silent`"):
        VocabularyTokenizer(symbols, silent=silent)


def test_sentencepiece_has_the_size_that_is_asked_for() -> None:
    tokenizer = SentencePieceTokenizer(num_pieces=30)
    tokenizer.fit(TEXTS)
    assert tokenizer.vocab_size == 31


def test_too_many_pieces_for_the_texts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_pieces` does not suit the training texts, got 5000: [^\n]+$"):
        SentencePieceTokenizer(num_pieces=5000).fit(TEXTS)


def test_unknown_model_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`model_type` must be .* got 'word'"):
        SentencePieceTokenizer(model_type="word")


@pytest.mark.parametrize("files", [{}, {"tokens.model": b""}, {"tokens.model": b"no model"}])
def test_missing_or_damaged_model_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"tokens\.model"):
        SentencePieceTokenizer().load_files(files)


@pytest.mark.parametrize("text", ["", "a", "so far so good", "  two   words "])
@pytest.mark.parametrize(
    "tokenizer",
    [
        CharTokenizer(),
        WordTokenizer(),
        SentencePieceTokenizer(num_pieces=18),
        VocabularyTokenizer([*"sofargdtw ", "oo", "<unk>"], silent=["<unk>"]),
    ],
    ids=lambda tokenizer: type(tokenizer).__name__,
)
def test_words_of_labels(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.fit(["so far so good two words a", "good words are few", "a far word goods"] * 5)
    ids = tokenizer.encode(text)
    assert [tokenizer.decode(ids[word]) for word in tokenizer.split_words(ids)] == text.split()


def test_silent_labels_are_no_word() -> None:
    tokenizer = VocabularyTokenizer(["<unk>", " ", "A"], silent=["<unk>"])
    assert tokenizer.split_words([1, 2, 3, 1, 2, 2, 1]) == [slice(2, 4)]


def test_hyphens_part_words_and_apostrophes_alone_are_none() -> None:
    tokenizer = VocabularyTokenizer(["a", "B", "-", "'", " "])
    a, b, hyphen, apostrophe, space = range(1, 6)
    for ids in ([a, hyphen, b], [a, space, hyphen, space, b], [a, space, apostrophe], [a, apostrophe, b], [hyphen]):
        words = [tokenizer.decode(ids[word]) for word in tokenizer.split_words(ids)]
        assert words == tokenizer.decode(ids).split()


def test_a_word_that_no_text_holds_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold normalised words, got 'Yes'; write 'yes'"):
        WordTokenizer(["Yes", "no"])
