"""Archives: what goes in comes out, interrupted writing goes on, and damage is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechkit.audio import AudioError, load_audio
from speechkit.cli.main import main
from speechkit.data import ArchivedCuts, Draw, SpeechDataset, read_cuts
from speechkit.data.archive import write_index
from speechkit.data.archive_writer import write_archive
from speechkit.text import CharTokenizer

RATE = 8000
SECONDS = [0.5, 1.25, 0.3, 2.0, 0.75]
TEXTS = ["ab", None, "", "b a", "ü"]


def write_manifest(path: Path, seconds: list[float] = SECONDS, **changes: Any) -> Path:
    """One file of noise for each duration, and the last row once more as a segment of its file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for place, duration in enumerate(seconds):
        samples = 0.1 * np.random.default_rng(place).standard_normal(round(duration * RATE))
        soundfile.write(path.with_name(f"{place}.wav"), samples, RATE)
        text = TEXTS[place % len(TEXTS)]
        row = {"audio_filepath": f"{place}.wav", "speaker": f"s{place}"}
        rows.append(row if text is None else {**row, "text": text})
    rows.append({**rows[-1], "offset": 0.25, "duration": 0.25, **changes})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "corpus" / "m.jsonl")


def shard(manifest: Path, out: Path, **options: Any) -> list[str]:
    """Failures, as text."""
    return [str(failure) for failure in write_archive([manifest], out, **{"shard_utterances": 2, **options})]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_archive_holds_what_the_manifest_names(manifest: Path, tmp_path: Path, audio_format: str) -> None:
    assert shard(manifest, tmp_path / "out", audio_format=audio_format) == []
    archived = SpeechDataset(ArchivedCuts([tmp_path / "out"]), sample_rate_hz=RATE, seed=3)
    direct = SpeechDataset(read_cuts(manifest), sample_rate_hz=RATE, seed=3)
    assert len(archived) == len(direct) == 6
    for index in [3, 0, 5, 1, 4, 2]:
        one, other = archived[[Draw(index, 0, 1.0, 1.0)]], direct[[Draw(index, 0, 1.0, 1.0)]]
        assert np.array_equal(one.waveform, other.waveform)
        assert (one.ids, one.texts, one.speakers) == (other.ids, other.texts, other.speakers)


def test_opus_is_close(manifest: Path, tmp_path: Path) -> None:
    assert shard(manifest, tmp_path / "out", audio_format="opus", sample_rate_hz=16000) == []
    cut = ArchivedCuts([tmp_path / "out"])[3]
    assert cut.sampling_rate == 16000
    samples = cut.load_audio()[0]
    original = load_audio(manifest.parent / "3.wav", 16000)
    assert len(samples) == len(original)
    assert np.corrcoef(samples, original)[0, 1] > 0.9


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # lhotse leaves its files open
def test_lhotse_reads_the_archive(manifest: Path, tmp_path: Path) -> None:
    from lhotse import CutSet

    shard(manifest, tmp_path / "out")
    cuts = list(CutSet.from_shar(in_dir=tmp_path / "out" / "shar"))
    assert [cut.supervisions[0].text for cut in cuts] == [*TEXTS, TEXTS[-1]]
    assert [cut.supervisions[0].id for cut in cuts] == [cut.id for cut in read_cuts(manifest)]
    np.testing.assert_array_equal(cuts[3].load_audio()[0], load_audio(manifest.parent / "3.wav", RATE))


def test_archive_of_lhotse_is_indexed(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "shar").mkdir(parents=True)
    read_cuts(manifest).to_shar(tmp_path / "out" / "shar", {"recording": "wav"}, shard_size=4)
    assert main(["data", "index", str(tmp_path / "out")]) == 0
    assert "6 utterances, 0.00 h, in 2 shards" in capsys.readouterr().out
    dataset = SpeechDataset(ArchivedCuts([tmp_path / "out"]), sample_rate_hz=RATE)
    batch = dataset[[Draw(3, 0, 1.0, 0.5), Draw(5, 0, 1.0, 0.5)]]
    assert batch.texts == ["b a", "ü"]
    assert batch.lengths.tolist() == [2 * RATE, RATE // 4]
    np.testing.assert_allclose(batch.waveform[0], load_audio(manifest.parent / "3.wav", RATE), atol=1e-4)


def test_shards_hold_the_hours_that_are_asked_for(manifest: Path, tmp_path: Path) -> None:
    shard(manifest, tmp_path / "out", shard_utterances=None, shard_hours=1.5 / 3600)
    cuts = ArchivedCuts([tmp_path / "out"])
    assert [cuts.places(place)["milliseconds"].tolist() for place in range(cuts.num_shards)] == [
        [500, 1250],
        [300, 2000],
        [750, 250],
    ]


def test_several_archives_are_one_list(manifest: Path, tmp_path: Path) -> None:
    other = write_manifest(tmp_path / "other" / "m.jsonl", [0.4])
    shard(manifest, tmp_path / "a")
    shard(other, tmp_path / "b", shard_utterances=1)
    cuts = ArchivedCuts([tmp_path / "a", tmp_path / "b"], cached_shards=1)
    assert [cuts.first_row(place) for place in range(cuts.num_shards)] == [0, 2, 4, 6, 7]
    assert [round(cuts[row].duration, 2) for row in (7, 0, 6, 5)] == [0.15, 0.5, 0.4, 0.25]
    assert list(cuts.texts()) == [*TEXTS, TEXTS[-1], "ab", "ab"]
    assert np.concatenate(list(cuts.durations_milliseconds())).tolist() == [500, 1250, 300, 2000, 750, 250, 400, 150]


def test_interrupted_writing_goes_on(manifest: Path, tmp_path: Path) -> None:
    shard(manifest, tmp_path / "whole")
    write = write_archive(
        [manifest], tmp_path / "out", shard_utterances=2, on_progress=lambda count: write_interrupted()
    )

    def write_interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(write)
    with pytest.raises(ValueError, match="unfinished"):
        ArchivedCuts([tmp_path / "out"])
    first = tmp_path / "out" / "shar" / "recording.000000.tar"
    before = first.stat().st_mtime_ns
    assert shard(manifest, tmp_path / "out") == []
    assert first.stat().st_mtime_ns == before
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_workers_write_the_same_archive(manifest: Path, tmp_path: Path) -> None:
    shard(manifest, tmp_path / "one")
    shard(manifest, tmp_path / "two", num_workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_bad_files_are_named_and_the_rest_is_archived(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (manifest.parent / "1.wav").write_text("hello")
    (manifest.parent / "2.wav").unlink()
    call = ["data", "shard", str(manifest), str(tmp_path / "out"), "--utterances", "2", "--workers", "1"]
    assert main(call) == 1
    printed = capsys.readouterr()
    failed = [line.split(": ")[1] for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert failed == [str(manifest.parent / "1.wav"), str(manifest.parent / "2.wav")]
    assert printed.out == f"{tmp_path / 'out'}: 4 utterances, 0.00 h, in 3 shards; 2 failed\n"
    assert [cut.id for cut in ArchivedCuts([tmp_path / "out"])] == ["0.wav", "3.wav", "4.wav", "4.wav@0.25"]
    assert main(call) == 2
    assert "holds an archive already" in capsys.readouterr().err


def test_nothing_is_overwritten(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(ValueError, match="full: exists already"):
        shard(manifest, tmp_path / "full")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "archive.json").write_text('{"job": {"audio_format": "wav"}}')
    with pytest.raises(ValueError, match="beginning of another archive"):
        shard(manifest, tmp_path / "begun")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"audio_format": "mp3"}, "`audio_format` must be one of flac, wav, opus, got 'mp3'"),
        ({"shard_utterances": 0}, "must hold something"),
        ({"shard_utterances": None, "shard_hours": -1}, "must hold something"),
        ({"audio_format": "opus", "sample_rate_hz": 22050}, "of opus must be one of"),
        ({"num_workers": 0}, "`num_workers` must be at least 1"),
    ],
)
def test_bad_options_are_refused(manifest: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        shard(manifest, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_nothing_to_archive_is_refused(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="no utterances to archive"):
        shard(tmp_path / "empty.jsonl", tmp_path / "out")
    for file in manifest.parent.glob("*.wav"):
        file.unlink()
    with pytest.raises(ValueError, match="no utterance could be read"):
        shard(manifest, tmp_path / "out")


def test_damage_is_named(manifest: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="out: is no archive"):
        ArchivedCuts([out])
    shard(manifest, out)
    tar = out / "shar" / "recording.000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1000])
    with pytest.raises(AudioError, match=r"recording\.000001\.tar: truncated, or changed since"):
        ArchivedCuts([out])[3]
    with pytest.raises(ValueError, match=r"recording\.000001\.tar: does not belong to cuts"):
        write_index(out)
    shutil.copy(out / "shar" / "recording.000000.tar", tar)
    with pytest.raises(AudioError, match="truncated, or changed"):
        ArchivedCuts([out])[3]
    tar.unlink()
    with pytest.raises(AudioError, match=r"recording\.000001\.tar: cannot be read"):
        ArchivedCuts([out])[3]
    with (out / "index.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match="index is damaged"):
        ArchivedCuts([out])


def test_text_that_the_tokenizer_lacks_names_the_utterance(manifest: Path, tmp_path: Path) -> None:
    shard(manifest, tmp_path / "out")
    dataset = SpeechDataset(ArchivedCuts([tmp_path / "out"]), sample_rate_hz=RATE, tokenizer=CharTokenizer("ab"))
    with pytest.raises(ValueError, match=r"recording\.000002\.tar: 4\.wav: .* lacks"):
        dataset[[Draw(4, 0, 1.0, 1.0)]]
    with pytest.raises(ValueError, match=r"recording\.000000\.tar: 1\.wav: has no `text`"):
        dataset[[Draw(1, 0, 1.0, 1.0)]]
