"""What every front end promises: shapes, padding, gradients, short input, errors."""

import pytest
import torch
import torchaudio

from speechkit.features import MFB, MFCC, Deltas, FrontEnd, GlobalCMVN, SlidingCMVN, UtteranceCMVN, Waveform

FEATURES = [MFB(num_mels=24), MFCC(), MFCC(use_energy=True), Waveform()]


@pytest.mark.parametrize("features", FEATURES, ids=lambda module: type(module).__name__)
@pytest.mark.parametrize("cmvn", [None, UtteranceCMVN(), UtteranceCMVN(variance=False)])
def test_padding_changes_nothing(features: torch.nn.Module, cmvn: torch.nn.Module | None) -> None:
    front_end = FrontEnd(features=features, cmvn=cmvn)
    short, long = torch.randn(1, 4000) * 0.1, torch.randn(1, 40000) * 0.1
    alone, count = front_end(short, torch.tensor([4000]))
    joined = torch.cat([torch.cat([short, torch.ones(1, 36000)], dim=1), long])
    together, counts = front_end(joined, torch.tensor([4000, 40000]))
    assert counts[0] == count[0] == alone.shape[1]
    torch.testing.assert_close(together[0, : count[0]], alone[0], atol=1e-4, rtol=0)
    assert together[0, count[0] :].abs().max() == 0


@pytest.mark.parametrize("num_samples", [0, 1, 399, 400, 559, 560])
def test_frame_count_is_the_whole_frames(num_samples: int) -> None:
    features, count = MFB()(torch.zeros(2, 700), torch.tensor([num_samples, 700]))
    assert count[0] == max(0, (num_samples - 400) // 160 + 1)
    assert not features[0, count[0] :].any()


@pytest.mark.parametrize("num_samples", [1, 399])
def test_less_than_a_window_is_refused(num_samples: int) -> None:
    with pytest.raises(ValueError, match=rf"of 400 samples at 16000 Hz, edges .*, got at most {num_samples}"):
        MFB()(torch.zeros(1, num_samples), torch.tensor([num_samples]))


def test_nothing_at_all_is_no_frames() -> None:
    """A rank's share of a batch may be empty."""
    features, frames = MFB()(torch.zeros(1, 0), torch.tensor([0]))
    assert features.shape == (1, 0, 80)
    assert frames.tolist() == [0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("features", [MFB(num_mels=24), MFCC()], ids=lambda module: type(module).__name__)
def test_samples_that_are_no_numbers_are_refused(features: torch.nn.Module, bad: float) -> None:
    waveform = torch.zeros(2, 1000)
    waveform[1, 500] = bad
    with pytest.raises(ValueError, match="NaN or infinity in utterance 1"):
        features(waveform, torch.tensor([1000, 1000]))
    features(waveform, torch.tensor([1000, 450]))  # beyond the end it is no sample


def test_buffers_and_autograd_agree() -> None:
    waveform, lengths = 0.1 * torch.randn(3, 9000) + 0.05, torch.tensor([9000, 6000, 400])
    for module in (MFB(), MFB(use_energy=True, edges="mirror"), MFB(use_power=False), MFCC(use_energy=True)):
        plain, _ = module(waveform.clone().requires_grad_(), lengths)
        buffered, _ = module(waveform, lengths)
        if isinstance(module, MFCC):
            torch.testing.assert_close(buffered, plain.detach(), atol=5e-4, rtol=0)
        else:  # float32's transforms are right to a share of a frame's largest power: a bin near none has any logarithm
            largest = plain.detach().exp().amax(-1, keepdim=True).clamp(min=1e-9)
            torch.testing.assert_close(buffered.exp() / largest, plain.detach().exp() / largest, atol=1e-5, rtol=0)


def test_sliding_statistics_are_kaldis() -> None:
    features, lengths = torch.randn(2, 250, 4) + 3.0, torch.tensor([250, 60])
    for options in ({"center": True}, {"center": False}, {"center": False, "variance": True}):
        result, _ = SlidingCMVN(window_frames=50, min_frames=20, **options)(features, lengths)
        for row, length in enumerate(lengths.tolist()):
            expected = torchaudio.functional.sliding_window_cmn(
                features[row : row + 1, :length],
                cmn_window=50,
                min_cmn_window=20,
                center=options["center"],
                norm_vars=options.get("variance", False),
            )
            torch.testing.assert_close(result[row, :length], expected[0], atol=1e-4, rtol=1e-4)
            assert not result[row, length:].any()


def test_deltas_are_regression_slopes() -> None:
    features, lengths = torch.randn(2, 40, 3), torch.tensor([40, 25])
    result, _ = Deltas(order=2, window=2)(features, lengths)
    for row, length in enumerate(lengths.tolist()):
        inside = features[row, :length]
        slopes = torchaudio.functional.compute_deltas(inside.T, win_length=5).T
        torch.testing.assert_close(result[row, :length], torch.cat([inside, slopes, result[row, :length, 6:]], dim=1))
        curvature = torchaudio.functional.compute_deltas(slopes.T, win_length=5).T
        torch.testing.assert_close(result[row, 4 : length - 4, 6:], curvature[4:-4], atol=1e-5, rtol=0)
    assert not result[1, 25:].any()
    line = torch.arange(9.0)[None, :, None]
    assert Deltas(order=2)(line, torch.tensor([9]))[0][0, 4].tolist() == pytest.approx([4.0, 1.0, 0.0], abs=1e-6)


def test_silence_is_finite() -> None:
    features, _ = FrontEnd(features=MFB(), cmvn=UtteranceCMVN())(torch.zeros(1, 4000), torch.tensor([4000]))
    assert features.isfinite().all()


def test_gradient_reaches_the_waveform() -> None:
    waveform = (torch.randn(1, 800, dtype=torch.float32) * 0.1).requires_grad_()
    MFB(num_mels=20)(waveform, torch.tensor([800]))[0].sum().backward()
    assert waveform.grad is not None
    assert waveform.grad.isfinite().all()
    assert waveform.grad.abs().max() > 0


def test_autocast_does_not_touch_the_front_end() -> None:
    waveform = torch.randn(1, 1600) * 0.1
    plain, _ = MFB()(waveform, torch.tensor([1600]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, _ = MFB()(waveform, torch.tensor([1600]))
    assert torch.equal(plain, mixed)


def test_global_cmvn_takes_the_statistics_of_real_frames() -> None:
    cmvn = GlobalCMVN(3)
    features = torch.randn(4, 50, 3) * torch.tensor([1.0, 2.0, 3.0]) + 5
    lengths = torch.tensor([50, 40, 30, 20])
    cmvn.fit([(features[:2], lengths[:2]), (features[2:], lengths[2:])])
    inside = torch.cat([row[:length] for row, length in zip(features, lengths.tolist(), strict=True)])
    torch.testing.assert_close(cmvn.mean, inside.mean(dim=0))
    torch.testing.assert_close(cmvn.std, inside.std(dim=0, correction=0))
    normalized, _ = cmvn(inside[None], torch.tensor([len(inside)]))
    torch.testing.assert_close(normalized[0].mean(dim=0), torch.zeros(3), atol=1e-5, rtol=0)


def test_global_cmvn_refuses_to_run_unfitted() -> None:
    with pytest.raises(RuntimeError, match="no statistics"):
        GlobalCMVN(2)(torch.zeros(1, 3, 2), torch.tensor([3]))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_mels": -3}, "num_mels"),
        ({"sample_rate_hz": 0}, "sample_rate_hz"),
        ({"low_hz": 9000.0}, "low_hz"),
        ({"high_hz": 9000.0}, "high_hz"),
        ({"preemphasis": 2.0}, "preemphasis"),
        ({"window": "kaiser"}, "window"),
        ({"hop_seconds": 0.0}, "hop_seconds"),
        ({"num_mels": 400}, "filter 0 empty"),
        ({"edges": "wrap"}, "edges"),
        ({"log": "log2"}, "log"),
        ({"dither": -1.0}, "dither"),
        ({"floor": 0.0}, "floor"),
        ({"vtln_warp": 0.9, "vtln_high_hz": 9000.0}, "vtln_high_hz"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        MFB(**arguments)


def test_mfcc_cannot_have_more_coefficients_than_mels() -> None:
    with pytest.raises(ValueError, match="num_coefficients"):
        MFCC(num_coefficients=24, num_mels=23)
