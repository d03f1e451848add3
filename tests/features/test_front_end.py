"""What every front end promises: shapes, padding, gradients, short input, errors."""

import pytest
import torch

from speechkit.features import MFB, MFCC, FrontEnd, GlobalCMVN, UtteranceCMVN, Waveform

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
    features, count = MFB()(torch.zeros(1, num_samples), torch.tensor([num_samples]))
    assert features.shape[1] == count[0] == max(0, (num_samples - 400) // 160 + 1)


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
    ],
)
def test_wrong_arguments_are_named(arguments: dict, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        MFB(**arguments)


def test_mfcc_cannot_have_more_coefficients_than_mels() -> None:
    with pytest.raises(ValueError, match="num_coefficients"):
        MFCC(num_coefficients=24, num_mels=23)
