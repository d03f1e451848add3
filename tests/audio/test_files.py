"""Reading files: formats, spans, resampling, and every way in which a file can be broken."""

import os
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechkit.audio import AudioError, find_audio_files, load_audio, read_audio_info, resample

RATE = 16000
FORMATS = {"wav": {}, "flac": {}, "ogg": {}, "opus": {"format": "OGG", "subtype": "OPUS"}, "mp3": {}, "aiff": {}}
TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)


def write_audio(path: Path, samples: np.ndarray = TONE, rate: int = RATE) -> Path:
    soundfile.write(path, samples, rate, **FORMATS[path.suffix[1:]])
    return path


def noisy_tone(seconds: float = 2.0) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(round(seconds * RATE))
    return (np.resize(TONE, len(noise)) + 0.1 * noise).astype(np.float32)


def cut_file(path: Path, num_bytes: int) -> Path:
    path.write_bytes(path.read_bytes()[:num_bytes])
    return path


def loudest_hz(samples: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples))


def audio_error(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        load_audio(path, RATE)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("suffix", FORMATS)
def test_format_is_read(tmp_path: Path, suffix: str) -> None:
    samples = load_audio(write_audio(tmp_path / f"a.{suffix}"), RATE)
    assert samples.dtype == np.float32
    assert samples.shape == TONE.shape
    assert np.abs(samples - TONE)[1000:-1000].max() < 0.05


@pytest.mark.parametrize("suffix", FORMATS)
def test_info_is_that_of_the_samples(tmp_path: Path, suffix: str) -> None:
    info = read_audio_info(write_audio(tmp_path / f"a.{suffix}", np.stack([TONE, TONE], axis=1)))
    assert info == (RATE, len(TONE), 2)
    assert info.duration_seconds == 2.0


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_channels_are_averaged(tmp_path: Path, suffix: str) -> None:
    path = write_audio(tmp_path / f"a.{suffix}", np.stack([TONE, 0 * TONE, -0.5 * TONE], axis=1))
    np.testing.assert_allclose(load_audio(path, RATE), TONE / 6, atol=1e-4)


@pytest.mark.parametrize("from_hz", [8000, 11025, 22050, 44100, 48000])
def test_resampling_keeps_frequency_and_duration(tmp_path: Path, from_hz: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * from_hz) / from_hz)
    samples = load_audio(write_audio(tmp_path / "a.wav", tone, from_hz), RATE)
    assert abs(len(samples) - 2 * RATE) <= 1
    assert abs(loudest_hz(samples, RATE) - 1000) < 1
    assert abs(np.abs(samples[RATE // 2 : -RATE // 2]).max() - 0.5) < 0.01


def test_resampling_removes_what_would_alias() -> None:
    tone = np.sin(2 * np.pi * 7000 * np.arange(RATE) / RATE).astype(np.float32)
    assert np.abs(resample(tone, RATE, 8000)[100:-100]).max() < 0.01


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "aiff"])  # libsndfile seeks in Ogg to within a block
@pytest.mark.parametrize(("offset", "duration"), [(0.0, 0.5), (0.123, 0.7), (1.5, None), (1.9, 10.0)])
def test_span_equals_that_part_of_the_whole(tmp_path: Path, suffix: str, offset: float, duration: float | None) -> None:
    path = write_audio(tmp_path / f"a.{suffix}", noisy_tone())
    span = load_audio(path, RATE, offset_seconds=offset, duration_seconds=duration)
    assert len(span) == round(min(duration or 10.0, 2.0 - offset) * RATE)
    start = round(offset * RATE)
    np.testing.assert_allclose(span, load_audio(path, RATE)[start : start + len(span)], atol=1e-6)


def test_span_is_in_seconds_whatever_the_rate(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav", noisy_tone())
    assert len(load_audio(path, 8000, offset_seconds=0.5, duration_seconds=1.0)) == 8000


def test_offset_past_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="past its end"):
        load_audio(write_audio(tmp_path / "a.wav"), RATE, offset_seconds=2.5)


@pytest.mark.parametrize("span", [{"offset_seconds": -1.0}, {"duration_seconds": -1.0}])
def test_negative_span_is_refused(tmp_path: Path, span: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        load_audio(write_audio(tmp_path / "a.wav"), RATE, **span)


def test_missing_file(tmp_path: Path) -> None:
    assert "no such file" in audio_error(tmp_path / "none.wav")


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.touch()
    assert "0 bytes" in audio_error(path)


def test_file_without_samples(tmp_path: Path) -> None:
    assert "no samples" in audio_error(write_audio(tmp_path / "a.wav", TONE[:0]))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3", "a.m4a"])
def test_text_is_not_audio(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("this is no audio at all\n" * 50)
    assert "not readable as audio" in audio_error(path)
    with pytest.raises(AudioError, match="not readable as audio"):
        read_audio_info(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    path, samples = tmp_path / "a.wav", TONE.copy()
    samples[100] = bad
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert "NaN or infinite" in audio_error(path)


@pytest.mark.parametrize("num_bytes", [3, 42, 60, 90, 200, 700, 4096, 10_000, 20_000, -2000, -100, -2, -1])
def test_cut_flac(tmp_path: Path, num_bytes: int) -> None:
    audio_error(cut_file(write_audio(tmp_path / "a.flac", noisy_tone()), num_bytes))


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
@pytest.mark.parametrize("num_bytes", [3, 20, 100, 700, 30_000, -2000, -100])
def test_cut_pcm(tmp_path: Path, suffix: str, num_bytes: int) -> None:
    path = cut_file(write_audio(tmp_path / f"a.{suffix}"), num_bytes)
    audio_error(path)
    with pytest.raises(AudioError):
        read_audio_info(path)


@pytest.mark.parametrize("suffix", ["ogg", "opus"])
@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.75, 0.9, 0.99])
def test_cut_ogg(tmp_path: Path, suffix: str, share: float) -> None:
    path = write_audio(tmp_path / f"a.{suffix}", noisy_tone(10.0))
    audio_error(cut_file(path, round(share * path.stat().st_size)))


@pytest.mark.parametrize("num_bytes", [700, 4000, -500])
def test_cut_mp3(tmp_path: Path, num_bytes: int) -> None:
    audio_error(cut_file(write_audio(tmp_path / "a.mp3", noisy_tone()), num_bytes))


@pytest.mark.parametrize("kind", ["RF64", "W64", "AU"])
def test_cut_file_of_rarer_kinds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, TONE, RATE, format=kind, subtype="PCM_16")
    assert len(load_audio(path, RATE)) == len(TONE)
    assert re.search(r"truncated, it lacks at least \d+ bytes", audio_error(cut_file(path, path.stat().st_size // 2)))


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "opus"])
def test_streams_one_after_the_other_are_refused(tmp_path: Path, suffix: str) -> None:
    """libsndfile would read the first of them alone."""
    path = write_audio(tmp_path / f"a.{suffix}", noisy_tone())
    path.write_bytes(path.read_bytes() * 2)
    assert "several streams one after the other" in audio_error(path)


def test_what_stands_behind_the_stream_does_no_harm(tmp_path: Path) -> None:
    for suffix in ("mp3", "ogg"):
        path = write_audio(tmp_path / f"a.{suffix}")
        path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))  # ID3v1
        assert len(load_audio(path, RATE)) == len(TONE)


def test_a_frame_that_its_header_does_not_count_is_no_second_stream(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.mp3", noisy_tone())
    content = bytearray(path.read_bytes())
    place = max(content.find(b"Xing"), content.find(b"Info"))
    (size,) = struct.unpack(">I", content[place + 12 : place + 16])
    assert size == len(content) - content.find(b"\xff")  # all there is
    last_frame = content.rfind(bytes(content[:2]) if content[0] == 0xFF else b"\xff\xfb")
    content[place + 12 : place + 16] = struct.pack(">I", last_frame)
    path.write_bytes(content)
    assert len(load_audio(path, RATE)) > 0


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav").rename(tmp_path / os.fsdecode(b"caf\xe9.wav"))
    assert len(load_audio(path, RATE)) == len(TONE)
    assert read_audio_info(path).num_samples == len(TONE)
    assert find_audio_files(tmp_path) == [path]


def test_headerless_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(bytes(1000))
    assert "not readable as audio" in audio_error(path)


def test_file_that_may_not_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "a.wav")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("speechkit.audio.files.find_damage", refuse)  # root, who runs the tests, may read everything
    assert audio_error(path) == f"{path}: permission denied"


def test_format_whose_decoder_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.m4a"
    path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(100))
    monkeypatch.setitem(sys.modules, "librosa", None)
    assert "needs librosa" in audio_error(path)


def test_span_longer_than_any_file(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav")
    assert len(load_audio(path, RATE, duration_seconds=1e308)) == len(TONE)
    with pytest.raises(AudioError, match="past its end"):
        load_audio(path, RATE, offset_seconds=1e308)


def test_folders_are_searched_behind_links_once(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "inside" / "loop").symlink_to(tmp_path / "inside")
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "elsewhere")
    write_audio(tmp_path / "elsewhere" / "a.wav")
    assert find_audio_files(tmp_path / "inside") == [tmp_path / "inside" / "link" / "a.wav"]


def test_span_before_the_cut_is_refused_where_the_container_tells(tmp_path: Path) -> None:
    path = cut_file(write_audio(tmp_path / "a.wav"), 40_000)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(path, RATE, duration_seconds=0.5)


def test_damaged_flac(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.flac", noisy_tone())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    audio_error(path)


@pytest.mark.parametrize("declared", [0xFFFFFFFF, 0x7FFFF000])
def test_wav_from_a_pipe_is_whole(tmp_path: Path, declared: int) -> None:
    path = write_audio(tmp_path / "a.wav")
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = struct.pack("<I", declared)
    path.write_bytes(content)
    assert len(load_audio(path, RATE)) == len(TONE)


def test_wav_with_chunks_around_its_samples_is_whole(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.wav")
    content = path.read_bytes()
    extra = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    size = struct.pack("<I", len(content) + 2 * len(extra) - 8)
    path.write_bytes(content[:4] + size + content[8:36] + extra + content[36:] + extra)
    assert len(load_audio(path, RATE)) == len(TONE)


def test_flac_without_its_length_is_refused(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "a.flac")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO's 36 bits of total samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    assert "does not declare its length" in audio_error(path)


def test_folders_are_searched_and_sorted(tmp_path: Path) -> None:
    names = ["b.wav", "a.FLAC", "deep/er/c.opus"]
    for name in [*names, "notes.txt", "deep/text.jsonl"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_audio_files(tmp_path) == [tmp_path / name for name in sorted(names)]


def test_folder_without_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"holds no audio files.*\.wav"):
        find_audio_files(tmp_path)


def test_mixing_and_resampling_are_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechkit.audio.files._said", set())
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.zeros((800, 2)), 8000)
        load_audio(tmp_path / name, 16000)
    assert [record.message.split(": ")[1] for record in caplog.records] == [
        "2 channels, mixed down (said once)",
        "8000 Hz, resampled to 16000 Hz (said once)",
    ]
