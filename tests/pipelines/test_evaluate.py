"""Scores of a manifest: over all, by speaker, by length, by word; in numbers and as the command prints them."""

import json
from pathlib import Path

import pytest

from speechkit import Recognizer
from speechkit.cli.main import main
from speechkit.pipelines.evaluate import Evaluation, evaluate


@pytest.fixture(scope="module")
def evaluation(untrained: Path, two_speakers: Path) -> Evaluation:
    return evaluate(Recognizer.load(untrained), two_speakers, num_worst=3)


def test_utterances_are_in_the_order_of_the_manifest(evaluation: Evaluation, two_speakers: Path) -> None:
    rows = [json.loads(line) for line in two_speakers.read_text().splitlines()]
    assert [item.utterance.id for item in evaluation.utterances] == [row["audio_filepath"] for row in rows]
    assert [item.reference for item in evaluation.utterances] == [row["text"] for row in rows]


@pytest.mark.parametrize("table", ["per_speaker", "per_length"])
def test_a_table_holds_every_utterance_once(evaluation: Evaluation, table: str) -> None:
    groups = getattr(evaluation, table)
    assert len(groups) == 2
    assert sum(group.num_utterances for group in groups) == len(evaluation.utterances)
    assert sum(group.wer.counts.errors for group in groups) == evaluation.wer.counts.errors
    assert sum(group.cer.counts.length for group in groups) == evaluation.cer.counts.length
    assert sum(group.seconds for group in groups) == pytest.approx(evaluation.seconds)


def test_lengths_rise(evaluation: Evaluation) -> None:
    shorter, longer = evaluation.per_length
    assert (shorter.name, longer.name) == ("0.30 to 0.63 s", "0.66 to 0.99 s")
    assert shorter.num_utterances == longer.num_utterances


def test_confusions_are_the_errors(evaluation: Evaluation) -> None:
    counts = evaluation.wer.counts
    assert [sum(words.values()) for words in evaluation.confusions] == list(counts[:3])
    assert min(counts[:2]) > 0


def test_worst_come_first(evaluation: Evaluation) -> None:
    errors = sorted((item.word_counts.errors for item in evaluation.utterances), reverse=True)
    assert [item.word_counts.errors for item in evaluation.worst] == errors[:3]


def test_a_speaker_who_says_nothing_has_no_rate(untrained: Path, two_speakers: Path) -> None:
    rows = [json.loads(line) for line in two_speakers.read_text().splitlines()][:3]
    rows[0] |= {"speaker": "silent", "text": ""}
    manifest = two_speakers.with_name("silent.jsonl")
    manifest.write_text("\n".join(map(json.dumps, rows)))
    scores = evaluate(Recognizer.load(untrained), manifest)
    silent = next(group for group in scores.as_dict()["per_speaker"] if group["name"] == "silent")
    assert (silent["utterances"], silent["words"], silent["wer"], silent["wer_interval"]) == (1, 0, None, None)


def test_a_negative_number_of_worst_is_refused(untrained: Path, two_speakers: Path) -> None:
    with pytest.raises(ValueError, match="`num_worst` must not be negative, got -1"):
        evaluate(Recognizer.load(untrained), two_speakers, num_worst=-1)


def test_the_command_prints_and_writes_the_tables(
    untrained: Path, two_speakers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "new" / "scores.json"
    assert main(["evaluate", str(untrained), str(two_speakers), "--json", str(scores), "--worst", "2"]) == 0
    written, printed = json.loads(scores.read_text()), capsys.readouterr().out
    assert all(text in printed for text in ("ann  ", "0.30 to 0.63 s", "most substituted: "))
    assert written["utterances"] == len(written["per_utterance"]) == 24
    assert all(0 <= row["confidence"] <= 1 for row in written["per_utterance"] if row["hypothesis"])
    assert len(written["worst"]) == printed.count("said: ") == 2
    assert sum(count for *_, count in written["substituted_words"]) == written["substitutions"]
    assert [row["utterances"] for row in written["per_speaker"]] == [12, 12]
