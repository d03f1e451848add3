"""Maps of code words: counts and characters by hand, and what a user gets or is told."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechkit.audio import load_audio
from speechkit.bundle import Bundle, save_bundle
from speechkit.cli.main import main
from speechkit.codebooks import GumbelCodebook, KMeansCodebook
from speechkit.encoders import ConvGRUEncoder, QuantizedEncoder, Wav2Vec2Encoder, Wav2VecEncoder
from speechkit.features import MFB, FrontEnd
from speechkit.heads import CTCHead, MaskedPredictionHead
from speechkit.probing import FeatureExtractor, map_codes
from speechkit.probing.alignment import Label
from speechkit.text import CharTokenizer

RATE = 8000
PITCHES = {"a": 400, "b": 1800}


def front_end() -> FrontEnd:
    return FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=12))


def vq_bundle() -> Bundle:
    torch.manual_seed(0)
    encoder = Wav2VecEncoder(input_dim=12, channels=8, kernel_sizes=(3,), strides=(2,), context_kernel_sizes=(3,))
    codebook = KMeansCodebook(input_dim=8, num_codes=6, output_dim=8)
    return Bundle(front_end(), QuantizedEncoder(encoder=encoder, codebook=codebook))


def wav2vec2_bundle() -> Bundle:
    torch.manual_seed(0)
    encoder = Wav2Vec2Encoder(
        input_dim=12, channels=8, kernel_sizes=(3,), strides=(2,), conv_norm="layer", conv_bias=True, padded=True,
        output_dim=8, num_layers=1, num_heads=2, feed_forward_dim=16, position_kernel_size=4, position_groups=2,
    )  # fmt: skip
    codebook = GumbelCodebook(input_dim=8, num_codes=5, num_groups=3, output_dim=9)
    return Bundle(front_end(), encoder, MaskedPredictionHead(codebook=codebook, context_dim=8))


def recognizer() -> Bundle:
    """It knows nothing, but an alignment says something all the same."""
    torch.manual_seed(0)
    encoder = ConvGRUEncoder(input_dim=12, channels=12, hidden_size=12, num_layers=1)
    return Bundle(front_end(), encoder, CTCHead(input_dim=12, vocab_size=3), CharTokenizer("ab"))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Four utterances, each a low tone and a high one, or the other way round."""
    rows = []
    time = np.arange(int(0.3 * RATE)) / RATE
    for place, text in enumerate(["ab", "ba", "ab", "ba"]):
        samples = np.concatenate([0.3 * np.sin(2 * np.pi * PITCHES[symbol] * time) for symbol in text])
        noise = np.random.default_rng(place).normal(0, 1e-3, len(samples))
        soundfile.write(tmp_path / f"{place}.wav", samples + noise, RATE)
        rows.append({"audio_filepath": f"{place}.wav", "duration": 0.6, "text": text})
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path / "m.jsonl"


def codes_by_hand(bundle: Bundle, manifest: Path) -> list[torch.Tensor]:
    """Codes (T, G) of each utterance."""
    result = []
    for place in range(4):
        waveform = torch.from_numpy(load_audio(manifest.parent / f"{place}.wav", RATE))[None]
        with torch.no_grad():
            encoder = bundle.encoder.eval()
            latents, frames = encoder.latents(*bundle.front_end(waveform, torch.tensor([waveform.shape[1]])))
            if bundle.head is None:
                codes = encoder.quantize(latents, frames).codes
            else:
                codes = bundle.head.eval()(torch.zeros(1, latents.shape[1], 8), encoder.latent_norm(latents))[2].codes
        result.append(codes[0])
    return result


@pytest.mark.parametrize("make", [vq_bundle, wav2vec2_bundle])
def test_counts_are_those_of_the_frames(make: Callable[[], Bundle], manifest: Path) -> None:
    bundle = make()
    codes = map_codes(bundle, manifest)
    joined = torch.cat(codes_by_hand(bundle, manifest))
    num_groups, num_codes, _ = codes.words.shape
    assert codes.counts is not None
    for group in range(num_groups):
        assert codes.counts[group].tolist() == torch.bincount(joined[:, group], minlength=num_codes).tolist()
        shares = codes.counts[group] / len(joined)
        assert codes.perplexity[group] == pytest.approx(torch.special.entr(shares).sum().exp().item(), rel=1e-4)
    assert (codes.num_utterances, codes.failures, codes.symbols) == (4, (), None)
    assert map_codes(bundle).counts is None
    assert map_codes(bundle, manifest, minutes=0.01).num_utterances == 1


def test_symbols_are_what_most_frames_carry(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {text: [Label(text[0], 0.0, 0.3), Label(text[1], 0.3, 0.5)] for text in ("ab", "ba")}  # the end is unknown
    monkeypatch.setattr(
        "speechkit.probing.code_map.align_by", lambda aligner, utterances, device: [said[u.text] for u in utterances]
    )
    bundle = vq_bundle()
    codes = map_codes(bundle, manifest, aligner=recognizer())
    times = FeatureExtractor(bundle.front_end, bundle.encoder, what="latents").times
    carried: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for place, of_frames in enumerate(codes_by_hand(vq_bundle(), manifest)):
        text = ["ab", "ba"][place % 2]
        for time, frame in zip(times(len(of_frames)).tolist(), of_frames.tolist(), strict=True):
            for group, code in enumerate(frame):
                if time < 0.5:
                    carried[group, code][text[0] if time < 0.3 else text[1]] += 1
    assert codes.symbols is not None
    assert {symbol for of_group in codes.symbols for symbol in of_group} == {"a", "b", None}
    for group, of_group in enumerate(codes.symbols):
        for code, symbol in enumerate(of_group):
            counter = carried[group, code]
            assert counter[symbol] == max(counter.values(), default=0) if symbol else not counter


@pytest.mark.parametrize("make", [vq_bundle, wav2vec2_bundle])
def test_plot(make: Callable[[], Bundle], manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    folder = manifest.parent
    save_bundle(make(), folder / "bundle")
    save_bundle(recognizer(), folder / "recognizer.zip")
    sizes = "2 groups of 6 codes" if make is vq_bundle else "3 groups of 5 codes"
    for arguments, said in (
        ([], sizes),
        ([str(manifest)], f"{sizes}, perplexity "),
        ([str(manifest), "--aligner", str(folder / "recognizer.zip")], f"{sizes}, perplexity "),
    ):
        figure = folder / "out" / f"{len(arguments)}.png"
        assert main(["plot-codes", str(folder / "bundle"), *arguments, "-o", str(figure)]) == 0
        printed = capsys.readouterr().out
        assert printed.startswith(f"{figure}: {said}")
        assert printed.endswith(" frames of 4 utterances\n") == bool(arguments)
        assert figure.read_bytes()[:4] == b"\x89PNG"


def test_a_file_that_cannot_be_read_is_named(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_bundle(vq_bundle(), manifest.parent / "bundle")
    (manifest.parent / "2.wav").write_text("no audio")
    figure = str(manifest.parent / "codes.png")
    assert main(["plot-codes", str(manifest.parent / "bundle"), str(manifest), "-o", figure]) == 1
    printed = capsys.readouterr()
    assert "of 3 utterances" in printed.out
    assert "2.wav: not readable as audio" in printed.err


@pytest.mark.parametrize(
    ("bundle", "arguments", "expected"),
    [
        (recognizer, [], "`bundle` must have a codebook, in its encoder .*, got ConvGRUEncoder without"),
        (vq_bundle, ["--aligner", "self"], "`aligner` needs a manifest, got none"),
        (vq_bundle, ["manifest", "--aligner", "self"], "`aligner` must be a recogniser"),
        (vq_bundle, ["untold", "--aligner", "recognizer"], "has no `text` that `aligner` can align"),
        (vq_bundle, ["manifest", "--minutes", "0"], "`minutes` must be positive"),
    ],
)
def test_wrong_calls_are_one_line(
    bundle: Callable[[], Bundle],
    arguments: list[str],
    expected: str,
    manifest: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = manifest.parent
    save_bundle(bundle(), folder / "bundle")
    save_bundle(recognizer(), folder / "recognizer")
    (folder / "untold.jsonl").write_text('{"audio_filepath": "0.wav", "duration": 0.6}\n')
    names = {"self": "bundle", "manifest": "m.jsonl", "untold": "untold.jsonl", "recognizer": "recognizer"}
    paths = [str(folder / names[argument]) if argument in names else argument for argument in arguments]
    assert main(["plot-codes", str(folder / "bundle"), *paths, "-o", str(folder / "codes.png")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(expected, line)
    assert not (folder / "codes.png").exists()
