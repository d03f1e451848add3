"""A round of pseudo-labels: what is kept, in which order, and what is refused."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speechkit.cli.main import main
from speechkit.data import read_utterances
from speechkit.decoding.pseudo_labels import PseudoLabelFilter
from speechkit.pipelines.pseudo_label import pseudo_label
from speechkit.recognizer import Recognizer, Span
from speechkit.text import PhonemeTokenizer

EVERYTHING = PseudoLabelFilter(0.0, 0.0, 1e6)


def test_keeps_what_the_filter_keeps(corpus: Path, untrained: Path, tmp_path: Path) -> None:
    recognizer = Recognizer.load(untrained)
    manifests = [corpus / "unlabelled.jsonl", corpus / "dev.jsonl"]
    whole = pseudo_label(recognizer, manifests, [corpus / "train.jsonl"], tmp_path / "all.jsonl", EVERYTHING)
    kept = read_utterances(tmp_path / "all.jsonl")
    order = [item.audio_path for path in manifests for item in read_utterances(path)]
    assert [item.audio_path for item in kept] == [path for path in order if path in {item.audio_path for item in kept}]
    assert whole.num_kept == len(kept) > 2
    heard = {item.audio_path: recognizer.transcribe([item.audio_path])[0] for item in kept}
    assert all(item.text == heard[item.audio_path].text for item in kept)
    assert whole.kept_seconds == pytest.approx(sum(transcript.duration_seconds for transcript in heard.values()))
    middle = sorted(transcript.confidence for transcript in heard.values())[len(heard) // 2]
    some = pseudo_label(
        recognizer, manifests, [corpus / "train.jsonl"], tmp_path / "some.jsonl", PseudoLabelFilter(middle, 0.0, 1e6)
    )
    assert {item.audio_path for item in read_utterances(tmp_path / "some.jsonl")} == {
        path for path, transcript in heard.items() if transcript.confidence >= middle
    }
    assert some.num_kept + some.num_dropped == whole.num_kept + whole.num_dropped == len(order)


def test_what_was_interrupted_goes_on(
    corpus: Path, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer, out = Recognizer.load(untrained), tmp_path / "out.jsonl"
    manifest = corpus / "unlabelled.jsonl"

    def label(teacher: str, after: int = 1000) -> list[int]:
        """Stops after so many recordings; gives how many spans the recogniser got."""
        original, counts = Recognizer.transcribe_iter, []

        def some(self: Recognizer, spans: list[Span], **options: Any) -> Iterator[Any]:
            counts.append(len(spans))
            yield from itertools.islice(original(self, spans, **options), after)
            if after < len(spans):
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Recognizer, "transcribe_iter", some)
            try:
                pseudo_label(recognizer, [manifest], [corpus / "train.jsonl"], out, EVERYTHING, teacher=teacher)
            except KeyboardInterrupt:
                assert not out.exists()
        return counts

    assert label("a") == [6]
    whole = out.read_bytes()
    out.unlink()
    assert label("a", after=2) == [6]
    partial = tmp_path / "out.jsonl.partial"
    with partial.open("a") as file:
        file.write('["cut')  # by a machine that went away
    assert label("a", after=1) == [4]
    assert label("b", after=1) == [6]  # another teacher's texts are not taken
    assert label("b") == [5]
    assert out.read_bytes() == whole
    assert not partial.exists()


def test_labelled_recordings_are_left_out_and_broken_ones_counted(
    corpus: Path, untrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (corpus / "unlabelled.jsonl").read_text() + json.dumps({"audio_filepath": "dev0.wav"}) + "\n"
    (corpus / "more.jsonl").write_text(rows)
    (corpus / "unlabelled1.wav").write_bytes(b"")
    command = ["pseudo-label", str(untrained), str(corpus / "more.jsonl"), "--labelled", str(corpus / "dev.jsonl")]
    command += ["--min-confidence", "0", "--length-ratio", "0", "1e6", "--out", str(tmp_path / "out.jsonl")]
    assert main(command) == 1
    assert "1 not readable" in capsys.readouterr().out
    assert not [item for item in read_utterances(tmp_path / "out.jsonl") if item.audio_path.name == "dev0.wav"]
    assert main(command) == 2
    assert "exists already" in capsys.readouterr().err


def test_wrong_calls_are_named(corpus: Path, untrained: Path, tmp_path: Path) -> None:
    recognizer, train = Recognizer.load(untrained), corpus / "train.jsonl"
    with pytest.raises(ValueError, match="`unlabelled` must hold an utterance that `labelled` does not"):
        pseudo_label(recognizer, [train], [train], tmp_path / "out.jsonl", EVERYTHING)
    with pytest.raises(ValueError, match="`out` must be a new manifest"):
        pseudo_label(recognizer, [corpus / "dev.jsonl"], [train], train, EVERYTHING)
    with pytest.raises(ValueError, match="must hold a text"):
        pseudo_label(recognizer, [train], [corpus / "unlabelled.jsonl"], tmp_path / "out.jsonl", EVERYTHING)


def test_sounds_without_a_language_model_are_refused(corpus: Path, untrained: Path, tmp_path: Path) -> None:
    (tmp_path / "lexicon.txt").write_text("a AH\nb B IY\n", encoding="utf-8")
    tokenizer = PhonemeTokenizer(lexicon=str(tmp_path / "lexicon.txt"))
    tokenizer.fit(["a b"])
    recognizer = Recognizer(model=Recognizer.load(untrained).model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="labels are sounds, and what it writes without a language model"):
        pseudo_label(recognizer, [corpus / "dev.jsonl"], [corpus / "train.jsonl"], tmp_path / "out.jsonl", EVERYTHING)
    assert not list(tmp_path.glob("out*"))
