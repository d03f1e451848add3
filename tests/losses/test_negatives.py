"""Negatives: where they come from, how evenly, and that a seed alone decides."""

import pytest
import torch
from torch import Tensor

from speechkit.losses import draw_negatives, draw_negatives_per_anchor, join_ranks, speaker_codes

SOURCES = ["same_utterance", "other_utterances", "same_speaker", "mixed"]
SPEAKERS = speaker_codes(["ann", "bob", "ann", None], ["a", "b", "c", "d"])


def allowed(source: str) -> Tensor:
    """(4, 4) which utterances are a source for which, of the speakers above."""
    own = torch.eye(4, dtype=torch.bool)
    of_speaker = own.clone()
    of_speaker[0, 2] = of_speaker[2, 0] = True
    return {
        "same_utterance": own, "other_utterances": ~own, "same_speaker": of_speaker, "mixed": torch.ones(4, 4) > 0
    }[source]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_every_real_frame_of_the_source_is_as_likely(source: str) -> None:
    lengths = torch.tensor([1, 5, 50, 20])
    draws = 40_000
    seeds = [1, 2, 3, 4]
    negatives = draw_negatives(lengths, draws, source=source, speakers=SPEAKERS, seeds=seeds)
    assert (negatives.frame >= 0).all()
    assert (negatives.frame < lengths[negatives.utterance]).all()
    for b in range(4):
        counts = torch.zeros(4, 50)
        counts.index_put_((negatives.utterance[b], negatives.frame[b]), torch.ones(draws), accumulate=True)
        frames = torch.arange(50) < lengths[:, None]
        sources = [allowed("same_utterance"), allowed("other_utterances")] if source == "mixed" else [allowed(source)]
        expected = sum(of[b][:, None] * frames / (of[b] * lengths).sum() for of in sources) * draws / len(sources)
        assert not counts[expected == 0].any()
        deviation = (counts - expected)[expected > 0] / expected[expected > 0].sqrt()
        assert deviation.abs().max() < 4.5  # of about 76 nearly normal ones


@pytest.mark.parametrize("source", ["other_utterances", "same_utterance"])
def test_an_empty_source_is_marked(source: str) -> None:
    lengths = torch.tensor([0, 7] if source == "other_utterances" else [7, 0])
    negatives = draw_negatives(lengths, 5, source=source)
    assert (negatives.frame[1] == -1).all()
    assert (negatives.utterance[1] == -1).all()
    assert (negatives.frame[0] >= 0).all()


@pytest.mark.parametrize("source", SOURCES)
def test_draw_is_a_function_of_the_seed(source: str) -> None:
    """Not of the neighbours in the rank, nor of gaps that a rank without work leaves."""
    lengths = torch.tensor([9, 4, 12, 30])
    seeds = [11, 12, 13, 14]
    whole = draw_negatives(lengths, 64, source=source, speakers=SPEAKERS, seeds=seeds)
    assert not torch.equal(whole.frame, draw_negatives(lengths, 64, source=source, speakers=SPEAKERS, seeds=[5] * 4)[1])
    part = draw_negatives(lengths, 64, source=source, speakers=SPEAKERS, seeds=[14, 12], own=torch.tensor([3, 1]))
    assert torch.equal(part.frame, whole.frame[[3, 1]])
    assert torch.equal(part.utterance, whole.utterance[[3, 1]])
    gaps = torch.tensor([0, 1, 3, 4])  # where the utterances are among six candidates
    with_gaps, speakers = torch.zeros(6, dtype=torch.long), torch.zeros(6, dtype=torch.long)
    with_gaps[gaps], speakers[gaps] = lengths, SPEAKERS
    spread = draw_negatives(with_gaps, 64, source=source, speakers=speakers, seeds=seeds, own=gaps)
    assert torch.equal(spread.frame, whole.frame)
    assert torch.equal(spread.utterance, gaps[whole.utterance])


def test_of_each_anchor_are_all_the_other_frames() -> None:
    lengths = torch.tensor([6, 3, 1, 0])
    frame = draw_negatives_per_anchor(lengths, 3000, seeds=[1, 2, 3, 4]).frame
    for b, length in enumerate(lengths.tolist()[:2]):
        for m in range(length):
            counts = frame[b, m].bincount(minlength=length)
            assert counts[m] == 0
            others = torch.cat([counts[:m], counts[m + 1 :]])
            assert (others - 3000 / (length - 1)).abs().max() < 5 * (3000 / (length - 1)) ** 0.5
    assert (frame[2:] == -1).all()
    shorter = draw_negatives_per_anchor(torch.tensor([3]), 3000, seeds=[2]).frame
    assert torch.equal(shorter[0], frame[1, :3])


def test_speakers_have_codes() -> None:
    assert SPEAKERS[0] == SPEAKERS[2]
    assert len(set(SPEAKERS.tolist())) == 3
    assert len(set(speaker_codes([None, None, "b"], ["a", "b", "c"]).tolist())) == 3


def test_one_process_joins_nothing() -> None:
    latents, lengths = torch.randn(2, 3, 4), torch.tensor([3, 1])
    joined = join_ranks(latents, lengths, SPEAKERS[:2])
    assert joined.latents is latents
    assert joined.lengths is lengths
    assert joined.own.tolist() == [0, 1]
    assert torch.equal(joined.speakers, SPEAKERS[:2])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: draw_negatives(torch.tensor([3]), 2, source="elsewhere"), "source"),
        (lambda: draw_negatives(torch.tensor([3]), 0), "num_negatives"),
        (lambda: draw_negatives(torch.tensor([3]), 2, source="same_speaker"), "speakers"),
        (lambda: draw_negatives(torch.tensor([3]), 2, seeds=[1, 2]), "seeds"),
        (lambda: draw_negatives_per_anchor(torch.tensor([3]), 0), "num_negatives"),
    ],
)
def test_wrong_calls_name_the_argument(call, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()
