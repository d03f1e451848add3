"""Vocabularies of other toolkits: every row keeps its place in the text, or writes nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from speechkit.decoding import greedy_decode
from speechkit.pretrained.vocabulary import make_vocabulary, read_vocabulary
from speechkit.text import normalize_text

BASE = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, "|": 4, "A": 5, "B": 6}


def write(folder: Path, **files: Any) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("tokens", [list(BASE), list(BASE)[::-1]], ids=["blank first", "blank last"])
def test_paths_are_read_as_transformers_reads_them(
    tokens: list[str], make_processor: Callable[..., Any], tmp_path: Path
) -> None:
    processor = make_processor(tokens)
    vocabulary = read_vocabulary(tmp_path / "source", len(tokens))
    paths = torch.randint(len(tokens), (8, 60), generator=torch.Generator().manual_seed(0))
    logits = F.one_hot(paths, len(tokens))[:, :, vocabulary.rows]
    ours = [vocabulary.tokenizer.decode(labels) for labels in greedy_decode(logits, torch.full((8,), 60))]
    assert ours == [normalize_text(re.sub("<.*?>", "", processor.decode(path))) for path in paths]
    assert len(set(ours)) == 8


def test_special_tokens_write_nothing(tmp_path: Path) -> None:
    vocabulary = read_vocabulary(write(tmp_path, vocab=BASE), 7)
    tokenizer = vocabulary.tokenizer
    assert vocabulary.rows == list(range(7))
    assert tokenizer.decode([1, 5, 3, 4, 6, 2]) == "a b"
    assert tokenizer.encode("A, b!") == [5, 4, 6]
    with pytest.raises(ValueError, match="lacks the character"):
        tokenizer.encode("<s>")


def test_roles_stand_in_files_of_two_ages(tmp_path: Path) -> None:
    vocab = {"a": 0, "_": 1, "[PAD]": 2, "[UNK]": 3}
    roles = {"pad_token": {"content": "[PAD]"}, "unk_token": "x"}
    config = {"unk_token": "[UNK]", "word_delimiter_token": "_", "bos_token": None, "eos_token": None}
    folder = write(tmp_path, vocab=vocab, special_tokens_map=roles, tokenizer_config=config)
    vocabulary = read_vocabulary(folder, 4)
    assert vocabulary.rows == [2, 0, 1, 3]
    assert vocabulary.tokenizer.symbols == ["a", " ", "[UNK]"]
    assert vocabulary.tokenizer.silent == ("[UNK]",)


def test_added_tokens_may_have_rows(tmp_path: Path) -> None:
    folder = write(tmp_path, vocab={"<pad>": 0, "a": 1}, added_tokens={"<s>": 2, "</s>": 3})
    assert read_vocabulary(folder, 3).tokenizer.symbols == ["a", "<s>"]


def test_letters_in_both_cases_and_punctuation() -> None:
    tokenizer = make_vocabulary(["-", "A", "a", "B", ",", "|", "'"], blank="-", word_delimiter="|").tokenizer
    assert tokenizer.symbols == ["A", "a", "b", ",", " ", "'"]
    assert tokenizer.encode("Aba") == [2, 3, 2]
    assert tokenizer.decode([1, 3, 4, 5, 2, 6, 3]) == "ab a'b"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, r"lacks vocab\.json"),
        ({"vocab": BASE | {"C": 7}}, "one token for each of the 7 rows of lm_head, has 8"),
        ({"vocab": {"<pad>": 0}}, "one token for each of the 7 rows of lm_head, has 1"),
        ({"vocab": {"eng": BASE}}, "several languages are not read"),
        ({"vocab": BASE, "tokenizer_config": {"pad_token": "[PAD]"}}, r"lacks the token '\[PAD\]'"),
        ({"vocab": BASE, "tokenizer_config": {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}}, "`tokenizer_class`"),
        ({"vocab": BASE, "added_tokens": []}, "must hold keys and values"),
    ],
)
def test_what_does_not_fit_is_named(files: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        read_vocabulary(write(tmp_path, **files), 7)
