"""What each format writes."""

import json

import pytest

from speechkit.transcription import FORMATS, Alternative, Segment, Transcript, Word

WORDS = (Word("so", 0.1, 0.3, 0.9), Word("far", 0.4, 0.75, 0.4), Word("good", 3661.5, 3662.0, 1.0))
TRANSCRIPT = Transcript(
    (
        Segment("so far", 0.0, 1.0, WORDS[:2], (Alternative("so far", -0.5), Alternative("sofa", -2.25))),
        Segment("", 5.0, 6.0),
        Segment("good", 3661.0, 3662.5, WORDS[2:]),
    ),
    3663.0,
)
EXPECTED = {
    "txt": "so far good\n",
    "srt": "1\n00:00:00,100 --> 00:00:01,100\nso far\n\n2\n01:01:01,500 --> 01:01:02,500\ngood\n\n",
    "vtt": "WEBVTT\n\n00:00:00.100 --> 00:00:01.100\nso far\n\n01:01:01.500 --> 01:01:02.500\ngood\n\n",
    "tsv": "start\tend\ttext\n0\t1000\tso far\n3661000\t3662500\tgood\n",
    "ctm": "a_talk 1 0.100 0.200 so 0.9000\na_talk 1 0.400 0.350 far 0.4000\na_talk 1 3661.500 0.500 good 1.0000\n",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_formats(name: str) -> None:
    assert FORMATS[name]("a talk", TRANSCRIPT) == EXPECTED[name]


def test_json_holds_everything() -> None:
    result = json.loads(FORMATS["json"]("a talk", TRANSCRIPT))
    assert (result["file"], result["text"], result["duration"]) == ("a talk", "so far good", 3663.0)
    assert result["confidence"] == pytest.approx((0.9 * 0.4) ** (1 / 3), abs=1e-4)
    assert result["segments"][0]["words"][1] == {"word": "far", "start": 0.4, "end": 0.75, "confidence": 0.4}
    assert result["segments"][0]["alternatives"][1] == {"text": "sofa", "score": -2.25}
    assert result["segments"][1]["confidence"] is None


def test_subtitles_are_short() -> None:
    words = tuple(Word(f"word{place}", 0.5 * place, 0.5 * place + 0.5, 1.0) for place in range(40))
    blocks = FORMATS["srt"]("x", Transcript((Segment("", 0.0, 20.0, words),), 20.0)).strip().split("\n\n")
    lines = [block.split("\n")[2:] for block in blocks]
    assert [[len(line.split()) for line in block] for block in lines] == [[6, 6], [6, 6], [6, 6], [4]]
    assert all(len(line) <= 42 for block in lines for line in block)


def test_a_short_subtitle_stays_until_the_next_one_or_the_end() -> None:
    words = (Word("one", 1.0, 1.02, 1.0), Word("two", 1.9, 1.92, 1.0), Word("three", 4.0, 4.02, 1.0))
    vtt = FORMATS["vtt"]("x", Transcript((Segment("one two three", 0.0, 4.5, words),), 4.5))
    times = [line.replace("00:00:0", "") for line in vtt.split("\n") if "-->" in line]
    assert times == ["1.000 --> 1.900", "1.900 --> 2.900", "4.000 --> 4.500"]
