"""The plug-ins change what they should, only while training, and leave nothing behind."""

import math

import lightning
import pytest
import torch
from tiny_fit import fit, tiny_task
from torch import nn

from speechkit.callbacks import (
    ActivationCheckpointing,
    FeatureNoise,
    FilterAugment,
    FrequencyWarp,
    LabelSmoothing,
    SpecAugment,
    StepSeed,
)
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.frequency_warp import warp_bins
from speechkit.callbacks.spec_augment import span_mask
from speechkit.encoders import ConvGRUEncoder, SeparableConvEncoder
from speechkit.features import MFB, MFCC, Deltas, FrontEnd, UtteranceCMVN
from speechkit.losses import ctc_loss
from speechkit.tasks import ContrastivePretraining, Recognition
from speechkit.text import CharTokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def recognition(encoder: nn.Module | None = None) -> Recognition:
    torch.manual_seed(0)
    encoder = encoder or SeparableConvEncoder(input_dim=20, channels=16, kernel_sizes=(5,), output_dim=24)
    front_end = FrontEnd(features=MFB(num_mels=20), cmvn=UtteranceCMVN())
    return Recognition(front_end=front_end, encoder=encoder, tokenizer=CharTokenizer("ab"))


@pytest.fixture
def trainer() -> lightning.Trainer:
    return lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


LOSS_INPUT = (torch.randn(2, 9, 3), torch.tensor([[1, 2], [2, 0]]), torch.tensor([9, 6]), torch.tensor([2, 1]))


def test_label_smoothing_reaches_the_loss_while_training(trainer: lightning.Trainer) -> None:
    task, callback = recognition(), LabelSmoothing(0.1)
    callback.setup(trainer, task, "fit")
    smoothed = ctc_loss(*LOSS_INPUT, reduction="none", label_smoothing=0.1) / torch.tensor([2, 1])
    plain = ctc_loss(*LOSS_INPUT, reduction="none") / torch.tensor([2, 1])
    torch.testing.assert_close(task.loss(*LOSS_INPUT), smoothed)
    task.eval()
    torch.testing.assert_close(task.loss(*LOSS_INPUT), plain)
    callback.teardown(trainer, task, "fit")
    task.train()
    torch.testing.assert_close(task.loss(*LOSS_INPUT), plain)


def test_label_smoothing_needs_a_loss(trainer: lightning.Trainer) -> None:
    front_end = FrontEnd(features=MFB(num_mels=20))
    task = ContrastivePretraining(front_end=front_end, encoder=ConvGRUEncoder(input_dim=20))
    with pytest.raises(ValueError, match="ContrastivePretraining has none"):
        LabelSmoothing().setup(trainer, task, "fit")


def test_spec_augment_masks_only_while_training(trainer: lightning.Trainer) -> None:
    task, callback = recognition(), SpecAugment(num_time_masks=2, max_time_fraction=0.4)
    keys = set(task.state_dict())
    waveform, lengths = torch.randn(2, 16000) * 0.1, torch.tensor([16000, 12000])
    plain, frames = task.front_end(waveform, lengths)
    callback.setup(trainer, task, "fit")
    masked, same_frames = task.front_end(waveform, lengths)
    assert torch.equal(frames, same_frames)
    assert (masked == 0).sum() > (plain == 0).sum()
    assert torch.equal(masked[masked != 0], plain[masked != 0])
    assert set(task.state_dict()) == keys
    task.eval()
    assert torch.equal(task.front_end(waveform, lengths)[0], plain)
    task.train()
    callback.teardown(trainer, task, "fit")
    assert torch.equal(task.front_end(waveform, lengths)[0], plain)


def test_frequency_warp_reads_between_bins() -> None:
    ramp = torch.arange(9.0).expand(3, 2, 9)
    stretch, shift = torch.tensor([1.0, 1.0, 1.5]), torch.tensor([0.0, 1.25, 0.0])
    warped = warp_bins(ramp, stretch, shift)
    torch.testing.assert_close(warped[0], ramp[0])
    torch.testing.assert_close(warped[1, 0], (torch.arange(9.0) + 1.25).clamp(max=8))
    torch.testing.assert_close(warped[2, 0], ((torch.arange(9.0) - 4) * 1.5 + 4).clamp(0, 8))
    torch.testing.assert_close(warp_bins(ramp[..., :1], stretch, shift), ramp[..., :1])


def test_frequency_warp_changes_bins_only_while_training(trainer: lightning.Trainer) -> None:
    task, callback = recognition(), FrequencyWarp(max_stretch=0.2, max_shift=0.1)
    waveform, lengths = torch.randn(2, 16000) * 0.1, torch.tensor([16000, 12000])
    plain, frames = task.front_end(waveform, lengths)
    callback.setup(trainer, task, "fit")
    warped, same_frames = task.front_end(waveform, lengths)
    assert torch.equal(frames, same_frames)
    assert not torch.allclose(warped, plain)
    assert not warped[1, frames[1] :].any()
    callback.teardown(trainer, task, "fit")
    assert torch.equal(task.front_end(waveform, lengths)[0], plain)
    with pytest.raises(ValueError, match="max_shift"):
        FrequencyWarp(max_shift=0.6)


def test_filter_is_one_smooth_curve_for_all_frames() -> None:
    torch.manual_seed(0)
    features = torch.randn(500, 6, 20)
    added = FilterAugment(num_cosines=3, std=0.5).augment(features, torch.full((500,), 6)) - features
    torch.testing.assert_close(added, added[:, :1].expand_as(added), atol=1e-5, rtol=0)
    curves = added[:, 0]
    basis = torch.stack([torch.cos(math.pi / 20 * k * (torch.arange(20) + 0.5)) for k in range(3)], dim=1)
    weights = torch.linalg.lstsq(basis, curves.T).solution
    torch.testing.assert_close(basis @ weights, curves.T, atol=1e-5, rtol=0)
    assert weights.std(dim=1).tolist() == pytest.approx([0.5] * 3, rel=0.15)
    assert weights.mean(dim=1).abs().max() < 0.1
    with pytest.raises(ValueError, match="num_cosines"):
        FilterAugment(num_cosines=0)


def test_noise_is_white_and_of_any_strength_up_to_the_largest() -> None:
    torch.manual_seed(0)
    features = torch.randn(400, 50, 20)
    added = FeatureNoise(max_std=0.4).augment(features, torch.full((400,), 50)) - features
    strengths = added.std(dim=(1, 2))
    assert strengths.max() < 0.42
    assert strengths.mean().item() == pytest.approx(0.2, rel=0.1)
    assert abs((added[:, 1:] * added[:, :-1]).mean().item()) < 0.01
    with pytest.raises(ValueError, match="max_std"):
        FeatureNoise(max_std=-1.0)


@pytest.mark.parametrize("clean", [False, True])
def test_clean_targets_are_what_the_callbacks_did_not_touch(trainer: lightning.Trainer, clean: bool) -> None:
    """With every bin masked, only clean targets still tell one recording from another."""
    torch.manual_seed(0)
    front_end = FrontEnd(features=MFB(num_mels=20), cmvn=UtteranceCMVN())
    encoder = ConvGRUEncoder(input_dim=20, channels=16, hidden_size=16, dropout=0.0)
    task = ContrastivePretraining(front_end=front_end, encoder=encoder, clean_targets=clean)
    callback = SpecAugment(num_frequency_masks=400, max_bins=19, num_time_masks=0)
    callback.setup(trainer, task, "fit")
    losses = []
    for waveform in torch.randn(2, 2, 16000) * 0.1:
        torch.manual_seed(0)
        losses.append(task(waveform, torch.tensor([16000, 12000])).contrast.loss)
    assert torch.equal(losses[0], losses[1]) != clean
    callback.teardown(trainer, task, "fit")
    task.eval()
    torch.manual_seed(0)
    without = ContrastivePretraining(front_end=front_end, encoder=encoder)
    without.load_state_dict(task.state_dict())
    results = []
    for model in (task, without.eval()):
        torch.manual_seed(0)
        results.append(model(waveform, torch.tensor([16000, 12000])).contrast.loss)
    assert torch.equal(results[0], results[1])


def test_spans_stay_inside_and_are_uniform() -> None:
    torch.manual_seed(0)
    limits, widest = torch.full((4000,), 30), torch.full((4000,), 10)
    mask = span_mask(limits, 40, num_spans=1, widest=widest)
    widths = mask.sum(dim=1)
    assert not mask[:, 30:].any()
    assert widths.max() == 10
    assert widths.float().mean() == pytest.approx(5.0, abs=0.2)
    assert not span_mask(limits, 40, num_spans=0, widest=widest).any()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SpecAugment(num_time_masks=-1), "num_time_masks"),
        (lambda: SpecAugment(max_time_fraction=1.5), "max_time_fraction"),
        (lambda: LabelSmoothing(1.0), "smoothing"),
    ],
)
def test_wrong_strengths_are_named(make, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        make()


def test_step_seed_is_a_function_of_step_and_rank(trainer: lightning.Trainer) -> None:
    def draw(batch_idx: int, seed: int = 0) -> float:
        StepSeed(seed).on_train_batch_start(trainer, recognition(), None, batch_idx)
        return torch.rand(1).item()

    assert draw(3) == draw(3)
    assert len({draw(3), draw(4), draw(3, seed=1)}) == 3


@pytest.mark.parametrize("modules", [["encoder"], ["encoder.layers"], ["head"]])
def test_activation_checkpointing_changes_no_number(trainer: lightning.Trainer, modules: list[str]) -> None:
    waveform, lengths = torch.randn(2, 16000) * 0.1, torch.tensor([16000, 12000])
    results = []
    for callback in (None, ActivationCheckpointing(modules)):
        task = recognition()
        if callback is not None:
            callback.setup(trainer, task, "fit")
        torch.manual_seed(1)
        logits, _ = task(waveform, lengths)
        logits.square().sum().backward()
        results.append([p.grad for p in task.parameters()] + [b for _, b in task.named_buffers()])
        if callback is not None:
            callback.teardown(trainer, task, "fit")
            assert "forward" not in vars(task.encoder)
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_activation_checkpointing_names_an_unknown_module(trainer: lightning.Trainer) -> None:
    with pytest.raises(ValueError, match="decoder"):
        ActivationCheckpointing(["decoder"]).setup(trainer, recognition(), "fit")


def test_warmup_and_cosine() -> None:
    from speechkit.tasks.optimization import warmup_cosine

    factors = [warmup_cosine(step, warmup_steps=10, total_steps=110, final_fraction=0.1) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert math.isclose(max(factors), 1.0)


@pytest.mark.parametrize(
    "modules", [["encoder", "encoder"], ["encoder", "encoder.layers"], ["encoder.stem", "encoder"]]
)
def test_parts_that_overlap_are_not_computed_again_twice(modules: list[str], trainer: lightning.Trainer) -> None:
    task = recognition()
    callback = ActivationCheckpointing(modules)
    with pytest.raises(ValueError, match="`modules` must not name a part twice"):
        callback.setup(trainer, task, "fit")
    callback.on_exception(trainer, task, ValueError())
    assert "forward" not in vars(task.encoder)


@pytest.mark.parametrize("callback", [FrequencyWarp(), FilterAugment()])
@pytest.mark.parametrize("front_end", [FrontEnd(features=MFCC()), FrontEnd(features=MFB(num_mels=20), deltas=Deltas())])
def test_an_axis_that_is_no_frequency_is_refused(
    callback: FeatureAugmentation, front_end: FrontEnd, trainer: lightning.Trainer
) -> None:
    task = recognition()
    task.front_end = front_end
    with pytest.raises(ValueError, match=f"{type(callback).__name__} needs features whose axis is frequency"):
        callback.setup(trainer, task, "fit")


def test_nothing_is_left_behind_by_a_training_that_failed() -> None:
    calls = []

    class Counted(FeatureNoise):
        def augment(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return super().augment(features, lengths)

    class Failing(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *arguments: object) -> None:
            raise RuntimeError("midway")

    task = tiny_task()
    with pytest.raises(RuntimeError, match="midway"):
        fit(Counted(), Failing(), task=task)
    assert len(calls) == 1
    fit(steps=4, task=task)
    assert len(calls) == 1
