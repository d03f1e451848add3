"""The page of a report, opened in a browser: it draws, it plays, it complains of nothing; and its texts stay texts.

Chromium is $SPEECHKIT_BROWSER, or else one that is found. Where there is none these tests are skipped, unless the
variable names one.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Browser, Page, expect, sync_playwright

from speechkit import Recognizer
from speechkit.cli.main import main
from speechkit.models import DIGITS
from speechkit.pipelines.evaluate import evaluate
from speechkit.pipelines.report import render_page, write_report

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
TRACKS = {"words": (0, 36), "waveform": (44, 100), "spectrogram": (108, 236), "posteriors": (244, 290)}  # rows
COUNT_COLOURS = """(canvas, tracks) => {
    const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const pixels = new Uint32Array(image.data.buffer);
    const colours = ([top, end]) => new Set(pixels.subarray(top * canvas.width, end * canvas.width)).size;
    return Object.fromEntries(Object.entries(tracks).map(([name, rows]) => [name, colours(rows)]));
}"""


@pytest.fixture(scope="module")
def report(untrained: Path, two_speakers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "new" / "report.html"
    assert main(["evaluate", str(untrained), str(two_speakers), "--html", str(path), "--worst", "3"]) == 0
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("SPEECHKIT_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Browser, report: Path) -> Iterator[Callable[..., Page]]:
    """Opens the report; whatever it logs, throws, or asks the network for fails the test."""
    pages, complaints = [], []

    def open_it(**options: Any) -> Page:
        page = browser.new_page(**options)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.extend([request.url] if request.url.startswith("http") else []))
        page.goto(report.as_uri())
        pages.append(page)
        return page

    yield open_it
    for page in pages:
        page.close()
    assert complaints == []


def test_pictures_are_drawn(open_page: Callable[..., Page]) -> None:
    page = open_page()
    drawings, labels = page.locator("canvas.drawing").all(), page.locator("canvas:not(.drawing)").all()
    assert len(drawings) == len(labels) == 3
    for drawing in drawings:
        colours = drawing.evaluate(COUNT_COLOURS, TRACKS)
        assert min(colours.values()) > 3
        assert colours["spectrogram"] > 200
        assert colours["posteriors"] > 20
    assert all(min(label.evaluate(COUNT_COLOURS, TRACKS).values()) > 3 for label in labels)


def test_figures_and_tables_are_those_of_the_evaluation(open_page: Callable[..., Page], report: Path) -> None:
    page, data = open_page(), embedded(report.read_text())
    assert f"{100 * data['wer']:.1f} %" in page.inner_text("#summary")
    assert page.locator("#rates circle").count() == 2
    assert page.locator("#speakers tbody tr").count() == page.locator("#lengths tbody tr").count() == 2
    assert page.locator("#confusions li").count() == sum(len(data[k]) for k in ("substituted", "deleted", "inserted"))
    assert page.locator("#rows .row").count() == 24
    errors = page.locator("#rows").locator(".substitution, .deletion, .insertion").count()
    assert errors == data["substitutions"] + data["deletions"] + data["insertions"]


def test_the_button_plays_the_recording(open_page: Callable[..., Page], report: Path) -> None:
    page = open_page()
    audio, button = page.locator("audio").first, page.locator("button.play").first
    expect(audio).to_have_js_property("readyState", 4)
    assert audio.evaluate("node => node.duration") == pytest.approx(embedded(report.read_text())["worst"][0]["seconds"])
    button.click()
    expect(button).to_have_text("❚❚ Pause")
    expect(audio).to_have_js_property("ended", True)
    expect(button).to_have_text("▶ Play")
    playhead = page.locator(".playhead").first.evaluate("line => new DOMMatrix(getComputedStyle(line).transform).e")
    assert playhead == pytest.approx(page.locator("canvas.drawing").first.bounding_box()["width"], abs=1)


def test_a_click_into_the_picture_plays_from_there(open_page: Callable[..., Page]) -> None:
    page = open_page()
    audio, drawing = page.locator("audio").first, page.locator("canvas.drawing").first
    expect(audio).to_have_js_property("readyState", 4)
    audio.evaluate("node => node.addEventListener('play', () => { node.from = node.currentTime / node.duration; })")
    drawing.click(position={"x": drawing.bounding_box()["width"] * 0.8, "y": 60})
    expect(audio).to_have_js_property("ended", True)
    assert audio.evaluate("node => node.from") == pytest.approx(0.8, abs=0.05)


def test_zooming_widens_the_picture(open_page: Callable[..., Page]) -> None:
    page = open_page()
    before = page.locator("canvas.drawing").first.bounding_box()["width"]
    page.get_by_label("Zoom in").first.click()
    assert page.locator("canvas.drawing").first.bounding_box()["width"] == pytest.approx(1.5 * before, abs=1)


def test_texts_stay_texts(open_page: Callable[..., Page]) -> None:
    page = open_page()
    assert page.evaluate("window.broken") is None
    assert '</script><script>window.broken = "yes"</script>' in page.inner_text("#speakers")


def test_a_confusion_filters_the_utterances(open_page: Callable[..., Page]) -> None:
    page = open_page()
    button = page.locator("#confusions button").first
    chosen = button.locator(".words").inner_text()
    button.click()
    rows = page.locator("#rows .row").all_inner_texts()
    assert 0 < len(rows) < 24
    assert all(chosen in row for row in rows)
    page.fill("#filter", "no such word")
    assert page.locator("#rows .row").count() == 0


def test_utterances_are_ordered(open_page: Callable[..., Page]) -> None:
    page = open_page()
    errors = [int(text.split()[0]) for text in page.locator("#rows .badge").all_inner_texts()]
    assert errors == sorted(errors, reverse=True)
    page.select_option("#order", "place")
    assert "tone 0 'quoted'.wav" in page.locator("#rows .row").first.inner_text()
    page.check("#wrong")
    assert page.locator("#rows .row").count() == sum(count > 0 for count in errors)


def test_fits_a_phone_by_night(open_page: Callable[..., Page]) -> None:
    page = open_page(viewport={"width": 400, "height": 800}, color_scheme="dark", device_scale_factor=2)
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.locator("canvas.drawing").first.evaluate(COUNT_COLOURS, {"mel": (216, 472)})["mel"] > 200
    red, green, blue = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor")))
    assert max(red, green, blue) < 50


def test_of_a_long_recording_the_first_minute_is_drawn(untrained: Path, tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 8000 * 64)
    samples[8000 * 2 : 8000 * 62] = 0
    soundfile.write(tmp_path / "long.wav", samples, 8000)
    (tmp_path / "long.jsonl").write_text('{"audio_filepath": "long.wav", "text": "nothing of the kind"}')
    recognizer = Recognizer.load(untrained)
    evaluation = evaluate(recognizer, tmp_path / "long.jsonl")
    write_report(evaluation, recognizer, tmp_path / "long.html", model="m", manifest="long")
    (worst,) = embedded((tmp_path / "long.html").read_text())["worst"]
    assert (evaluation.seconds, worst["seconds"]) == (64, 60)
    assert 0 < len(worst["words"]) < len(evaluation.worst[0].transcript.words)


def embedded(page: str) -> dict[str, Any]:
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def test_embedded_figures_survive_whatever_they_hold() -> None:
    data = {"</script>": ["<!-- <script>", "REPORT_DATA", "REPORT_SCRIPT", "\u2028 \" ' &amp; \ud800"]}
    page = render_page(data)
    assert embedded(page) == data
    assert page.count("</script>") == render_page({}).count("</script>") == 3


def test_page_of_an_int8_model(two_speakers: Path, tmp_path: Path) -> None:
    """Whose posteriors come from numpy."""
    path = tmp_path / "report.html"
    assert main(["evaluate", str(DIGITS), str(two_speakers), "--html", str(path), "--worst", "1"]) == 0
    (worst,) = embedded(path.read_text())["worst"]
    assert worst
