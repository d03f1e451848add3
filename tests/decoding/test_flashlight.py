"""flashlight-text behind our interface, and the own search against it: the same texts and scores at an equal beam."""

import sys
from pathlib import Path

import pytest
import torch
from beam_cases import TOKENIZERS, WORDS

from speechkit.decoding import BeamSearch, FlashlightDecoder, Lexicon, train_kneser_ney, write_arpa

SENTENCES = ["ab cab cc", "a bb ab cab", "cc cc b", "cab ab a", "b abc"]


@pytest.fixture(scope="module")
def arpa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lm") / "lm.arpa"
    write_arpa(train_kneser_ney(SENTENCES, order=3), path)
    return path


def decoder(arpa: Path, kind: str = "char", **options: float) -> FlashlightDecoder:
    pytest.importorskip("flashlight", reason="flashlight-text has no wheel for this Python")
    return FlashlightDecoder(
        tokenizer=TOKENIZERS[kind], language_model=arpa, lexicon=Lexicon(WORDS), word_bonus=0.4, **options
    )


@pytest.mark.parametrize("beam_size", [5, 50])
def test_own_search_finds_the_same_with_the_same_scores(beam_size: int, arpa: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, lengths = 2.0 * torch.randn(8, 40, 5, generator=generator), torch.tensor([40, 40, 31, 20, 9, 2, 1, 0])
    theirs = decoder(arpa, beam_size=beam_size).decode(logits, lengths, num_best=3)
    search = BeamSearch(
        tokenizer=TOKENIZERS["char"],
        language_model=train_kneser_ney(SENTENCES, order=3),
        lexicon=Lexicon(WORDS),
        word_bonus=0.4,
        unknown_penalty=0.0,
        beam_size=beam_size,
    )
    for ours, peers in zip(search.decode(logits, lengths, num_best=3), theirs, strict=True):
        assert [hypothesis.labels for hypothesis in ours] == [hypothesis.labels for hypothesis in peers]
        for own, peer in zip(ours, peers, strict=True):
            assert own[1:] == pytest.approx(peer[1:], abs=1e-4)


def test_pieces_give_words_of_the_lexicon(arpa: Path) -> None:
    logits = 2.0 * torch.randn(3, 20, TOKENIZERS["pieces"].vocab_size, generator=torch.Generator().manual_seed(0))
    for (best,) in decoder(arpa, "pieces").decode(logits, torch.tensor([20, 20, 20])):
        assert {*TOKENIZERS["pieces"].decode(best.labels).split()} <= {*WORDS}


def test_phonemes_give_the_words_that_the_own_search_gives(arpa: Path) -> None:
    tokenizer = TOKENIZERS["phonemes"]
    search = BeamSearch(
        tokenizer=tokenizer,
        language_model=train_kneser_ney(SENTENCES, order=3),
        lexicon=Lexicon(WORDS),
        word_bonus=0.4,
        unknown_penalty=0.0,
    )
    found = set()
    for sounds in ("ab cab cc", "a b ab cab", "cc cc b", "cab a", "b abc", "ab ab"):
        path = torch.tensor([[label for one in tokenizer.encode(sounds) for label in (one, 0)]])
        logits, lengths = 20.0 * torch.nn.functional.one_hot(path, tokenizer.vocab_size), torch.tensor([path.shape[1]])
        ((best, *_),) = decoder(arpa, "phonemes").decode(logits, lengths)
        assert best.words == search.decode(logits, lengths)[0][0].words
        found |= {*best.words}
    assert {"ab", "cc"} <= found  # which sound alike


def test_wrong_arguments_are_refused(arpa: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`language_model` must be a file, got '.*missing\.bin'"):
        decoder(tmp_path / "missing.bin")
    with pytest.raises(ValueError, match="`tokenizer` must spell words"):
        decoder(arpa, "word")
    (tmp_path / "text.arpa").write_text("no language model\n")
    with pytest.raises(ValueError, match=r"text\.arpa: KenLM cannot read it"):
        decoder(tmp_path / "text.arpa")
    with pytest.raises(ValueError, match="`num_best` must be at least 1, got 0"):
        decoder(arpa).decode(torch.zeros(1, 3, 5), torch.tensor([3]), num_best=0)


def test_missing_package_is_named_with_its_extra(arpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchaudio.models.decoder as package

    monkeypatch.setitem(sys.modules, "torchaudio.models.decoder._ctc_decoder", None)  # as if its imports failed
    for name in ("ctc_decoder", "_ctc_decoder"):
        monkeypatch.delattr(package, name, raising=False)
    with pytest.raises(ImportError, match=r"pip install speechkit\[flashlight\]"):
        FlashlightDecoder(tokenizer=TOKENIZERS["char"], language_model=arpa, lexicon=Lexicon(WORDS))
