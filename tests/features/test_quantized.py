"""Waveform -> int8 codes: the same in float32, float64, ONNX Runtime's convolution; and in integers, bit for bit."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from speechkit.audio import load_audio
from speechkit.export.onnx_model import export_front_end_onnx
from speechkit.features import (
    MFB,
    MFCC,
    FrontEnd,
    GlobalCMVN,
    IntegerMFB,
    QuantizedFrontEnd,
    UtteranceCMVN,
    Waveform,
    WhisperMFB,
)
from speechkit.features.framing import window_function
from speechkit.features.integer import integer_tables
from speechkit.features.mel import mel_filters
from speechkit.features.mfcc import dct_matrix, lifter_weights
from speechkit.parts import build, describe
from speechkit.quantization import QParams, dequantize
from speechkit.runtime.front_end import integer_codes

MAKERS = {"mfb": lambda: MFB(num_mels=80), "mfcc": lambda: MFCC(num_coefficients=20, num_mels=40)}


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """A minute of real speech, or of noise that rises and falls where there are no recordings."""
    import os

    folder = Path(os.environ["SPEECHKIT_DATA"])
    files = sorted((folder / "arctic" / "audio" / "slt").glob("*.opus"))[:10]
    files += sorted((folder / "speechocean" / "audio").rglob("*.opus"))[:10]
    if files:
        return np.concatenate([load_audio(file, 16000) for file in files])
    level = np.abs(np.sin(np.arange(960000) / 7000)) * 0.2
    return (level * np.random.default_rng(0).standard_normal(960000)).clip(-1, 1).astype(np.float32)


def fitted(front_end: MFB, samples: np.ndarray) -> GlobalCMVN:
    cmvn = GlobalCMVN(front_end.num_features)
    cmvn.fit([front_end(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))])
    return cmvn


def codes_of(front_end: torch.nn.Module, samples: np.ndarray) -> np.ndarray:
    return front_end(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0].numpy()


def codes_in_float64(front_end: MFB, cmvn: GlobalCMVN, samples: np.ndarray) -> np.ndarray:
    frames = torch.from_numpy(samples).double().unfold(0, 400, 160)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    frames = frames - 0.97 * torch.cat([frames[:, :1], frames[:, :-1]], dim=-1)
    spectrum = torch.fft.rfft(frames * 32768 * window_function("povey", 400), n=512)
    features = (spectrum.abs().square() @ mel_filters(front_end.num_mels, 512, 16000, 20.0, 8000.0)).log()
    if isinstance(front_end, MFCC):
        features = features @ (dct_matrix(front_end.num_mels, 20) * lifter_weights(20, 22.0))
    normalised = (features - cmvn.mean.double()) / cmvn.std.double()
    return (normalised * 32).round().clamp(-128, 127).numpy()


@pytest.mark.parametrize("name", MAKERS)
def test_codes_agree_across_runtimes(name: str, samples: np.ndarray, tmp_path: Path) -> None:
    front_end = MAKERS[name]()
    cmvn = fitted(front_end, samples)
    quantized = QuantizedFrontEnd(front_end, cmvn)
    export_front_end_onnx(quantized, tmp_path / "front_end.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "front_end.onnx", providers=["CPUExecutionProvider"])
    in_ort = session.run(None, {"waveform": samples[None]})[0][0]
    in_torch = codes_of(quantized, samples)
    convolved = codes_of(QuantizedFrontEnd(front_end, cmvn, arithmetic="convolution"), samples)
    exact = codes_in_float64(front_end, cmvn, samples)
    assert in_torch.dtype == in_ort.dtype == np.int8
    for first, second in ((in_torch, in_ort), (in_torch, exact), (in_ort, exact), (convolved, exact)):
        differs = np.abs(first.astype(np.int64) - second)
        assert differs.max() <= 1
        assert (differs > 0).mean() < 100e-6


@pytest.mark.parametrize("name", MAKERS)
def test_integers_are_the_same_in_numpy_and_torch_in_any_pieces_on_any_threads(name: str, samples: np.ndarray) -> None:
    front_end = MAKERS[name]()
    cmvn = fitted(front_end, samples)
    quantized = QuantizedFrontEnd(front_end, cmvn, arithmetic="integer")
    codes = codes_of(quantized, samples)
    pcm = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    frames = np.lib.stride_tricks.sliding_window_view(pcm, 400)[::160]
    assert np.array_equal(integer_codes(frames, quantized.integer().tables), codes)
    stream = quantized.stream()
    pieces = torch.from_numpy(samples).split(7001)
    online = torch.cat([*[stream.push(piece) for piece in pieces], stream.finish()])
    assert online.dtype == torch.int8
    assert np.array_equal(online.numpy(), codes)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert np.array_equal(codes_of(quantized, samples), codes)
    finally:
        torch.set_num_threads(threads)
    in_float = codes_of(QuantizedFrontEnd(front_end, cmvn), samples)
    differs = np.abs(in_float.astype(np.int64) - codes)
    assert (differs > 0).mean() < 0.02
    assert (differs > 1).mean() < 50e-6


@pytest.mark.parametrize("size", [160, 1601, 16000])
def test_a_float_stream_gives_the_offline_codes(size: int, samples: np.ndarray) -> None:
    front_end = MFB(num_mels=80)
    quantized = QuantizedFrontEnd(front_end, fitted(front_end, samples))
    stream = quantized.stream()
    pieces = [stream.push(piece) for piece in torch.from_numpy(samples).split(size)]
    differs = np.abs(torch.cat([*pieces, stream.finish()]).numpy().astype(np.int64) - codes_of(quantized, samples))
    assert differs.max() <= 1
    assert (differs > 0).mean() < 20e-6


@pytest.mark.parametrize(
    "pcm",
    [
        np.zeros(1000),
        np.full(1000, -32768),
        np.where(np.arange(1000) % 2, 32767, -32768),
        np.where(np.arange(1000) // 40 % 2, 32767, -32768),
        np.random.default_rng(0).integers(-1, 2, 1000),
        np.where(np.random.default_rng(1).random(1000) < 0.5, 32767, -32768),
    ],
    ids=["silence", "lowest", "nyquist", "square", "one bit", "loudest noise"],
)
@pytest.mark.parametrize("maker", [MFB, MFCC])
def test_integers_do_not_overflow(pcm: np.ndarray, maker: type[MFB]) -> None:
    """Python's integers have no largest one: the sums of the definition, taken in them, are the same."""
    front_end = maker(num_mels=40, window="rectangular", remove_dc=False, preemphasis=0.97)
    tables = integer_tables(front_end, QParams(0.5, 3, "int8"))
    frames = np.lib.stride_tricks.sliding_window_view(pcm.astype(np.int16), 400)[::160]
    steps: dict[str, np.ndarray] = {}
    codes = integer_codes(frames, tables, steps=steps)
    big = {key: value.astype(object) for key, value in steps.items()}
    shift = 9
    power = (big["real"] * big["real"] + big["imaginary"] * big["imaginary"] + (1 << (shift - 1))) >> shift
    assert (power == big["power"]).all()
    assert max(np.abs(steps["real"]).max(), np.abs(steps["imaginary"]).max()) < 2**31
    done = 0
    for place, (start, length) in enumerate(zip(tables.filter_start, tables.filter_length, strict=True)):
        weights = tables.filter_weight[done : done + length].astype(object)
        assert ((power[:, start : start + length] * weights).sum(axis=1) == big["energy"][:, place]).all()
        done += length
    log = big["log2"] @ tables.multiplier.astype(object) + tables.offset.astype(object)
    exact = (log + (1 << (tables.shift - 1))) >> tables.shift
    assert (np.clip(exact.astype(np.float64), -128, 127) == codes).all()
    quantized = IntegerMFB(front_end, QParams(0.5, 3, "int8"))
    waveform = torch.from_numpy(pcm.astype(np.float32) / 32768)[None]
    assert np.array_equal(quantized(waveform, torch.tensor([len(pcm)]))[0][0].numpy(), codes)


@pytest.mark.parametrize("arithmetic", ["float", "convolution", "integer"])
def test_the_twin_gives_the_values_of_the_codes(arithmetic: str, samples: np.ndarray) -> None:
    front_end = MFB(num_mels=40)
    quantized = QuantizedFrontEnd(
        front_end, fitted(front_end, samples), QParams(0.05, 12, "int8"), arithmetic=arithmetic
    )
    waveform, lengths = torch.from_numpy(samples[:32000]).view(2, 16000), torch.tensor([16000, 9000])
    codes, frames = quantized(waveform, lengths)
    values, same_frames = quantized.fake()(waveform, lengths)
    assert torch.equal(frames, same_frames)
    assert torch.equal(dequantize(codes, quantized.qparams), values)
    assert (codes[1, frames[1] :] == 12).all()
    alone, _ = quantized(waveform[1:, :9000], lengths[1:])
    assert torch.equal(alone[0], codes[1, : frames[1]])


@pytest.mark.parametrize("arithmetic", ["float", "convolution"])
def test_gradients_pass_straight_through_inside_the_range(arithmetic: str, samples: np.ndarray) -> None:
    front_end = MFB(num_mels=40)
    cmvn = fitted(front_end, samples)
    waveform = torch.from_numpy(samples[None, 20000:24000]).requires_grad_()
    lengths = torch.tensor([4000])
    narrow = QuantizedFrontEnd(front_end, cmvn, QParams(1 / 128, 0, "int8"), arithmetic=arithmetic, output="values")
    weights = torch.randn(1, 23, 40)
    values, _ = narrow(waveform, lengths)
    (values * weights).sum().backward()
    plain = waveform.detach().clone().requires_grad_()
    features, _ = FrontEnd(features=front_end, cmvn=cmvn)(plain, lengths)
    codes = (features.detach() * 128).round()
    inside = (codes >= -128) & (codes <= 127)
    assert 0.1 < inside.float().mean() < 0.9
    (features * weights * inside).sum().backward()
    assert waveform.grad is not None
    torch.testing.assert_close(waveform.grad, plain.grad, atol=2e-2, rtol=1e-3)


def test_signal_to_noise_of_the_analytic_domain(samples: np.ndarray) -> None:
    """Folded CMVN and S = 1/32: near the 40.2 dB of a unit variance and a step of 1/32, hardly any clipping."""
    for maker in MAKERS.values():
        front_end = maker()
        cmvn = fitted(front_end, samples)
        quantized = QuantizedFrontEnd(front_end, cmvn)
        codes = codes_of(quantized, samples)
        exact = codes_of(FrontEnd(features=front_end, cmvn=cmvn), samples)
        noise = np.square(codes / 32.0 - exact).mean(axis=0)
        snr_db = 10 * np.log10(np.square(exact).mean(axis=0) / noise)
        assert snr_db.min() > 30.0  # a bin that holds next to nothing now and then clips
        assert snr_db.mean() > 39.5
        assert (np.abs(exact) > 4.0).mean() < 5e-3


def test_a_description_makes_the_same_front_end(samples: np.ndarray) -> None:
    front_end = MFCC(num_coefficients=20, num_mels=40, edges="mirror", window="hamming")
    quantized = QuantizedFrontEnd(front_end, fitted(front_end, samples), QParams(0.04, 1, "int8"), output="values")
    again = build(describe(quantized))
    again.load_state_dict(quantized.state_dict())
    assert np.array_equal(codes_of(again, samples[:8000]), codes_of(quantized, samples[:8000]))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: QuantizedFrontEnd(Waveform()), "`front_end` must be an MFB or MFCC"),
        (lambda: QuantizedFrontEnd(WhisperMFB()), "dynamic_range"),
        (lambda: QuantizedFrontEnd(MFB(), UtteranceCMVN()), "UtteranceCMVN"),
        (lambda: QuantizedFrontEnd(MFB(), GlobalCMVN(3)), "num_features"),
        (lambda: QuantizedFrontEnd(MFB(), arithmetic="double"), "arithmetic"),
        (lambda: QuantizedFrontEnd(MFB(), output="int8"), "output"),
        (lambda: QuantizedFrontEnd(MFB(), None, QParams([0.1] * 80, 0, "int8", axis=2)), "one scale"),
        (lambda: QuantizedFrontEnd(MFB(), None, QParams(0.0, 0, "int8")), "scale"),
        (lambda: QuantizedFrontEnd(MFB(), None, QParams(0.1, 300, "int8")), "zero_point"),
        (lambda: QuantizedFrontEnd(MFB(use_energy=True), arithmetic="integer"), "use_energy"),
        (lambda: QuantizedFrontEnd(MFB(use_power=False), arithmetic="integer"), "use_power"),
        (lambda: QuantizedFrontEnd(MFB(log="none"), arithmetic="integer"), "log"),
        (lambda: QuantizedFrontEnd(MFB(), None, QParams(0.1, 0, "uint8"), arithmetic="integer"), "int8"),
        (lambda: QuantizedFrontEnd(MFB(dither=1.0), arithmetic="convolution"), "dither"),
    ],
)
def test_what_has_no_quantized_form_is_refused(make, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_unfitted_statistics_are_refused() -> None:
    for arithmetic in ("float", "convolution", "integer"):
        with pytest.raises(RuntimeError, match="no statistics"):
            QuantizedFrontEnd(MFB(), GlobalCMVN(80), arithmetic=arithmetic)(torch.zeros(1, 800), torch.tensor([800]))
    with pytest.raises(ValueError, match="edges"):
        export_front_end_onnx(QuantizedFrontEnd(MFB(edges="mirror")), "front_end.onnx")


@pytest.mark.parametrize("arithmetic", ["float", "integer"])
def test_samples_that_are_not_finite_are_no_codes(arithmetic: str) -> None:
    waveform = torch.zeros(2, 4000)
    waveform[1, 1000] = torch.nan
    front_end = QuantizedFrontEnd(MFB(num_mels=20), arithmetic=arithmetic)
    with pytest.raises(ValueError, match="must be finite, got NaN or infinity in utterance 1"):
        front_end(waveform, torch.tensor([4000, 4000]))
    front_end(waveform, torch.tensor([4000, 900]))  # padding may hold anything


def test_the_integer_twin_goes_where_the_front_end_goes() -> None:
    front_end = QuantizedFrontEnd(MFB(num_mels=20), arithmetic="integer").to("meta")
    assert {buffer.device.type for buffer in front_end.integer().buffers()} == {"meta"}
