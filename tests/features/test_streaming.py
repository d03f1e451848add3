"""A stream gives the frames of the whole waveform, however it is cut."""

from collections.abc import Iterator

import pytest
import torch

from speechkit.features import (
    MFB,
    MFCC,
    Deltas,
    FrontEnd,
    GlobalCMVN,
    LibrosaMFB,
    SlidingCMVN,
    UtteranceCMVN,
    WhisperMFB,
)


def cut(samples: torch.Tensor, sizes: list[int]) -> Iterator[torch.Tensor]:
    start, turn = 0, 0
    while start < len(samples):
        size = sizes[turn % len(sizes)]
        yield samples[start : start + size]
        start, turn = start + size, turn + 1


FRONT_ENDS = {
    "kaldi": lambda: FrontEnd(features=MFB(num_mels=30)),
    "mfcc": lambda: FrontEnd(features=MFCC(use_energy=True)),
    "mirror": lambda: FrontEnd(features=MFB(num_mels=30, edges="mirror")),
    "wide hop": lambda: FrontEnd(features=MFB(num_mels=30, hop_seconds=0.040, edges="mirror")),
    "snip, wide hop": lambda: FrontEnd(features=MFB(num_mels=30, hop_seconds=0.040)),
    "librosa": lambda: FrontEnd(
        features=LibrosaMFB(
            sample_rate_hz=16000, num_mels=30, frame_seconds=0.032, hop_seconds=0.01, dynamic_range=None
        )
    ),
    "reflect": lambda: FrontEnd(features=MFB(num_mels=30, edges="reflect")),
    "sliding": lambda: FrontEnd(
        features=MFB(num_mels=30), cmvn=SlidingCMVN(window_frames=60, min_frames=20, variance=True)
    ),
}


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("sizes", [[16000], [1], [160], [7, 1000, 3, 399], [5000]], ids=str)
@pytest.mark.parametrize("num_samples", [700, 4003, 20000])
def test_any_pieces_give_the_offline_frames(name: str, sizes: list[int], num_samples: int) -> None:
    if sizes == [1] and num_samples > 5000:
        pytest.skip("single samples are tried on the shorter ones")
    torch.manual_seed(0)
    front_end = FRONT_ENDS[name]()
    samples = 0.1 * torch.randn(num_samples)
    offline, frames = front_end(samples[None], torch.tensor([num_samples]))
    stream = front_end.stream()
    parts = [stream.push(piece) for piece in cut(samples, sizes)]
    online = torch.cat([*parts, stream.finish()])
    assert len(online) == frames[0]
    torch.testing.assert_close(online, offline[0], atol=2e-4, rtol=0)


def test_global_statistics_stream() -> None:
    cmvn = GlobalCMVN(30)
    cmvn.mean.fill_(5.0)
    cmvn.std.fill_(2.0)
    front_end, samples = FrontEnd(features=MFB(num_mels=30), cmvn=cmvn), 0.1 * torch.randn(3000)
    stream = front_end.stream()
    online = torch.cat([stream.push(samples[:1000]), stream.push(samples[1000:]), stream.finish()])
    torch.testing.assert_close(online, front_end(samples[None], torch.tensor([3000]))[0][0], atol=2e-4, rtol=0)
    assert stream.latency_seconds == pytest.approx(0.0125)


def test_a_frame_comes_with_its_last_sample() -> None:
    stream = FrontEnd(features=MFB(num_mels=30)).stream()
    assert len(stream.push(torch.randn(399))) == 0
    assert len(stream.push(torch.randn(1))) == 1
    assert len(stream.push(torch.randn(159))) == 0
    assert len(stream.push(torch.randn(1))) == 1
    assert len(stream.finish()) == 0


def test_nothing_at_all_is_no_frames() -> None:
    stream = FrontEnd(features=MFB(num_mels=30, edges="mirror")).stream()
    assert stream.finish().shape == (0, 30)


@pytest.mark.parametrize(
    ("front_end", "said"),
    [
        (FrontEnd(features=WhisperMFB()), "dynamic_range"),
        (FrontEnd(features=MFB(), cmvn=UtteranceCMVN()), "UtteranceCMVN"),
        (FrontEnd(features=MFB(), cmvn=SlidingCMVN(center=True)), "SlidingCMVN"),
        (FrontEnd(features=MFB(), deltas=Deltas()), "deltas"),
    ],
)
def test_what_needs_the_whole_utterance_says_so(front_end: FrontEnd, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        front_end.stream()


def test_wrong_calls_are_named() -> None:
    stream = FrontEnd(features=MFB()).stream()
    with pytest.raises(ValueError, match="one dimension"):
        stream.push(torch.zeros(1, 400))
    with pytest.raises(ValueError, match="finite"):
        stream.push(torch.full((400,), torch.nan))
    stream.finish()
    with pytest.raises(ValueError, match="finish"):
        stream.push(torch.zeros(1))
