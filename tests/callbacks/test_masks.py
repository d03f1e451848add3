"""SpecAugment's policies, warp and adaptive masks, and Cutout."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speechkit.callbacks import Cutout, FeatureNoise, FilterAugment, FrequencyWarp, Ramp, SpecAugment
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.spec_augment import span_mask, warp_time

LENGTHS = torch.tensor([200, 120, 7, 1, 0])
FEATURES = torch.randn(5, 200, 40, generator=torch.Generator().manual_seed(0)) + 10.0  # a zero is a mask


def augmented(callback: FeatureAugmentation, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return callback.augment(FEATURES, LENGTHS)


def test_defaults_draw_and_mask_as_they_always_did() -> None:
    torch.manual_seed(0)
    widest = (LENGTHS * 0.15).clamp(max=50).floor()
    time = span_mask(LENGTHS, 200, num_spans=2, widest=widest)
    frequency = span_mask(torch.full((5,), 40), 40, num_spans=2, widest=torch.full((5,), 15))
    expected = FEATURES.masked_fill(time[:, :, None] | frequency[:, None, :], 0.0)
    following = torch.rand(1)
    assert torch.equal(augmented(SpecAugment()), expected)
    assert torch.equal(torch.rand(1), following)


def test_masks_as_wide_as_the_features_are_refused() -> None:
    task = SimpleNamespace(front_end=nn.Identity())
    task.front_end.num_features = 13
    with pytest.raises(ValueError, match="`max_bins` of SpecAugment must be below the 13 features, got 15"):
        SpecAugment().setup(Any, task, "fit")
    for callback in (SpecAugment(max_bins=12), SpecAugment(num_frequency_masks=0), SpecAugment(policy="LB")):
        callback.setup(Any, task, "fit")
        callback.teardown(Any, task, "fit")


def test_a_warp_moves_one_point_and_keeps_the_ends() -> None:
    ramp = torch.arange(11.0).expand(2, 11)[:, :, None]
    result = warp_time(ramp, torch.tensor([11, 6]), torch.tensor([4.0, 2.0]), torch.tensor([2.0, 0.0]))[..., 0]
    by_hand = [0, 4 / 6, 8 / 6, 2, 16 / 6, 20 / 6, 4, 5.5, 7, 8.5, 10]
    torch.testing.assert_close(result[0], torch.tensor(by_hand))
    torch.testing.assert_close(result[1, :6], torch.arange(6.0))


def test_warps_stay_within_a_quarter_and_move_every_long_utterance() -> None:
    callback = SpecAugment(0, 0, 0, 0, max_warp_frames=20)
    callback_features = torch.arange(200.0)[None, :, None].expand(5, 200, 1).clone()
    torch.manual_seed(0)
    moved = torch.stack([callback.augment(callback_features, LENGTHS)[..., 0] for _ in range(40)])
    steps = moved - torch.arange(200.0)
    assert 15 < steps[:, 0].abs().max() <= 20
    assert steps[:, 2, :7].abs().max() <= 6 / 4
    assert not steps[:, :2, 0].any()
    assert steps[:, 0, 199].abs().max() < 1e-4
    assert steps[:, 1, 119].abs().max() < 1e-4
    assert not steps[:, 3, :1].any()
    assert (moved[:, 0].diff(dim=1) >= 0).all()


def test_policies_are_those_of_the_paper_scaled_to_the_bins() -> None:
    assert SpecAugment(policy="LD").policy == (80, 2, 27, 2, 100, 1.0)
    assert SpecAugment(policy="SM", max_frames=9, max_bins=3).policy == (40, 2, 3, 2, 9, 0.2)
    masked = torch.stack(
        [(augmented(SpecAugment(policy="LB", num_time_masks=0), seed)[0, 0] == 0) for seed in range(80)]
    )
    assert masked.sum(dim=1).max() == round(27 * 40 / 80)
    explicit = SpecAugment(policy="LB", num_time_masks=0, max_bins=27)
    assert max(int((augmented(explicit, seed)[0, 0] == 0).sum()) for seed in range(40)) > 20


def test_the_number_of_masks_grows_with_the_utterance() -> None:
    callback = SpecAugment(0, 0, 20, 50, 0.02, time_masks_per_frame=0.02)
    masked = torch.stack([(augmented(callback, seed)[..., 0] == 0).sum(dim=1) for seed in range(60)])
    assert masked.max(dim=0).values[2:].tolist() == [0, 0, 0]
    assert 8 < masked[:, 0].max() <= 16  # four of at most four frames
    assert 2 < masked[:, 1].max() <= 4  # two of at most two


def test_rectangles_are_rectangles_within_bounds() -> None:
    for seed in range(20):
        masked = augmented(Cutout(1, 30, 8, max_time_fraction=0.2), seed) == 0
        frames, bins = masked.any(dim=2), masked.any(dim=1)
        assert torch.equal(masked, frames[:, :, None] & bins[:, None, :])
        assert frames[0].sum() <= 30
        assert frames[1].sum() <= 24
        assert bins.sum(dim=1).max() <= 8
        assert not frames[1, 120:].any()
        assert not frames[2, 7:].any()


def test_rectangles_are_as_many_as_asked_for() -> None:
    one, many = (torch.stack([augmented(Cutout(n), s)[0] == 0 for s in range(30)]).float().mean() for n in (1, 5))
    assert 2.5 < many / one < 6
    assert torch.equal(augmented(Cutout(0)), FEATURES)


@pytest.mark.parametrize("make", [FeatureNoise, FilterAugment, FrequencyWarp])
def test_what_is_not_masked_follows_a_ramp_too(make: Callable[..., Any]) -> None:
    trainer = SimpleNamespace(global_step=0, estimated_stepping_batches=100)
    callback, changes = make(strength=Ramp(0.0, 1.0, until=0.5)), []
    for trainer.global_step in (0, 25, 50, 100):
        callback.on_train_batch_start(trainer, nn.Module(), None, 0)
        changes.append((augmented(callback) - FEATURES).abs().mean().item())
    assert changes[0] == 0.0
    assert 0 < changes[1] < changes[2] == changes[3]
    assert torch.equal(augmented(callback), augmented(make()))
    with pytest.raises(ValueError, match=r"`strength` must lie in \[0, 1\], got 2.0"):
        make(strength=2.0)


@pytest.mark.parametrize("make", [SpecAugment, Cutout])
def test_strength_follows_a_ramp(make: Callable[..., Any]) -> None:
    task = nn.Module()
    trainer = SimpleNamespace(global_step=0, estimated_stepping_batches=100)
    callback = make(strength=Ramp(0.0, 1.0, until=0.5))
    assert torch.equal(augmented(callback), augmented(make()))  # outside training: as at its end
    shares = []
    for trainer.global_step in (0, 25, 50, 100):
        callback.on_train_batch_start(trainer, task, None, 0)
        shares.append(torch.stack([augmented(callback, seed)[0] == 0 for seed in range(20)]).float().mean().item())
    assert shares[0] == 0.0
    assert 0 < shares[1] < shares[2] == shares[3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpecAugment(policy="LX"), "`policy` must be one of LB, LD, SM, SS, got 'LX'"),
        (lambda: SpecAugment(max_warp_frames=-1), "`max_warp_frames`"),
        (lambda: SpecAugment(time_masks_per_frame=2.0), "`time_masks_per_frame`"),
        (lambda: SpecAugment(strength=1.1), "`strength`"),
        (lambda: Cutout(-1), "`num_rectangles`"),
        (lambda: Cutout(max_time_fraction=-0.1), "`max_time_fraction`"),
        (lambda: Cutout(strength=Ramp(0.0, 2.0)), "`strength` must lie in"),
    ],
)
def test_wrong_values_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
