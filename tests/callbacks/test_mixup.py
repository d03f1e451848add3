"""Mixup and Manifold Mixup against the formula, and where they must change nothing."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from speechkit.callbacks import ActivationCheckpointing, LabelSmoothing, ManifoldMixup, Mixup, Ramp
from speechkit.callbacks.mixup import Pairs, draw_pairs, longer_of_pairs, mix_rows
from speechkit.encoders import ConvGRUEncoder, SeparableConvEncoder, Wav2Vec2Encoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.tasks import ContrastivePretraining, Recognition
from speechkit.text import CharTokenizer

TARGETS = torch.tensor([[1, 2, 1], [2, 0, 0], [1, 1, 0], [2, 1, 0], [0, 0, 0]])
TARGET_LENGTHS = torch.tensor([3, 1, 2, 2, 0])
LENGTHS = torch.tensor([16000, 12000, 9000, 14000, 0])  # the last one is a filler
SAME_LENGTHS = torch.tensor([16000, 16000, 16000, 16000, 0])


def waveforms(seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(5, 16000, generator=torch.Generator().manual_seed(seed))


def task(encoder: Any = None) -> Recognition:
    torch.manual_seed(0)
    encoder = encoder or SeparableConvEncoder(input_dim=20, channels=16, kernel_sizes=(5, 5), output_dim=24, dropout=0)
    front_end = FrontEnd(features=MFB(num_mels=20), cmvn=UtteranceCMVN())
    return Recognition(front_end=front_end, encoder=encoder, tokenizer=CharTokenizer("ab"), head_dropout=0.0)


@pytest.fixture
def trainer() -> Any:
    return SimpleNamespace(callbacks=[], global_step=50, estimated_stepping_batches=100)


def losses_of(module: Recognition, waveform: Tensor, lengths: Tensor = LENGTHS) -> Tensor:
    logits, frames = module(waveform, lengths)
    return module.loss(logits, TARGETS, frames, TARGET_LENGTHS)


def mixed(trainer: Any, module: Recognition, callback: Mixup, waveform: Tensor, lengths: Tensor = LENGTHS) -> Tensor:
    """Losses of one training step with the callback, which leaves nothing behind."""
    keys = set(module.state_dict())
    trainer.callbacks = [callback]
    callback.setup(trainer, module, "fit")
    callback.on_train_batch_start(trainer, module, None, 0)
    torch.manual_seed(1)
    losses = losses_of(module, waveform, lengths)
    callback.teardown(trainer, module, "fit")
    assert set(module.state_dict()) == keys
    assert not module.loss._forward_hooks
    assert not module.front_end._forward_hooks
    return losses


def test_pairs_are_mutual_and_weights_shared() -> None:
    torch.manual_seed(0)
    pairs = draw_pairs(9, probability=1.0, alpha=0.5)
    assert len(pairs.rows) == 8
    assert len(set(pairs.rows.tolist())) == 8
    partner_of = dict(zip(pairs.rows.tolist(), pairs.partners.tolist(), strict=True))
    weight_of = dict(zip(pairs.rows.tolist(), pairs.weights.tolist(), strict=True))
    assert all(partner_of[partner_of[row]] == row != partner_of[row] for row in partner_of)
    assert all(weight_of[partner_of[row]] == weight_of[row] <= 0.5 for row in partner_of)


def test_weights_are_of_the_folded_beta() -> None:
    torch.manual_seed(0)
    weights = draw_pairs(8000, probability=0.5, alpha=2.0).weights
    assert len(weights) == pytest.approx(4000, rel=0.1)
    assert weights.mean().item() == pytest.approx(0.5 - 3 / 16, abs=0.01)  # E|x - 1/2| of Beta(2, 2)


def test_mixture_is_the_formula_and_as_long_as_the_longer_one() -> None:
    pairs = Pairs(torch.tensor([0, 2]), torch.tensor([2, 0]), torch.tensor([0.25, 0.25]))
    x = torch.randn(3, 4, 2)
    result = mix_rows(x, pairs)
    torch.testing.assert_close(result[0], 0.75 * x[0] + 0.25 * x[2])
    torch.testing.assert_close(result[2], 0.75 * x[2] + 0.25 * x[0])
    assert torch.equal(result[1], x[1])
    assert longer_of_pairs(torch.tensor([4, 3, 2]), pairs).tolist() == [4, 3, 4]


def test_mixup_is_the_weighted_loss_of_both_texts(trainer: Any) -> None:
    module, waveform = task(), waveforms()
    torch.manual_seed(1)
    pairs = draw_pairs(5, probability=1.0, alpha=0.5, weight=0.3)
    features, lengths = module.front_end(waveform, LENGTHS)
    partner = list(range(5))
    for row, other in zip(pairs.rows.tolist(), pairs.partners.tolist(), strict=True):
        partner[row] = other
    is_mixed = torch.tensor([row != partner[row] and 4 not in (row, partner[row]) for row in range(5)])
    assert is_mixed.sum() >= 2
    mixtures = torch.where(is_mixed[:, None, None], 0.7 * features + 0.3 * features[partner], features)
    longer = torch.where(is_mixed, lengths.maximum(lengths[partner]), lengths)
    logits, frames = module.head(*module.encoder(mixtures, longer))
    own = module.loss(logits, TARGETS, frames, TARGET_LENGTHS)
    others = module.loss(logits, TARGETS[partner], frames, TARGET_LENGTHS[partner])
    expected = torch.where(is_mixed, 0.7 * own + 0.3 * others, own)
    result = mixed(trainer, task(), Mixup(1.0, weight=0.3), waveform)
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("make", [Mixup, ManifoldMixup])
@pytest.mark.parametrize("options", [{"weight": 0.0}, {"weight": 1.0}, {"probability": 0.0}])
def test_weight_0_or_1_is_the_plain_loss(trainer: Any, make: Callable[..., Mixup], options: dict[str, float]) -> None:
    plain = losses_of(task(), waveforms())
    torch.manual_seed(1)
    following = torch.rand(1)
    assert torch.equal(mixed(trainer, task(), make(**{"probability": 1.0, **options}), waveforms()), plain)
    assert torch.equal(torch.rand(1), following)  # nor is a random number drawn


@pytest.mark.parametrize("modules", [["front_end"], ["encoder.layers"], ["encoder"]])
def test_an_utterance_with_itself_is_the_plain_loss(
    trainer: Any, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waveform = waveforms()[:1].expand(5, -1)
    monkeypatch.setitem(globals(), "TARGETS", TARGETS[:1].expand(5, -1))
    monkeypatch.setitem(globals(), "TARGET_LENGTHS", TARGET_LENGTHS[:1].expand(5))
    plain = losses_of(task(), waveform, SAME_LENGTHS)
    callback = ManifoldMixup(1.0, weight=0.3, modules=modules)
    assert torch.equal(mixed(trainer, task(), callback, waveform, SAME_LENGTHS), plain)


def test_manifold_mixup_mixes_what_a_layer_gives(trainer: Any) -> None:
    """With one linear module behind the mixing, logits are those of the mixture of its inputs."""
    module, waveform = task().eval(), waveforms()
    with torch.no_grad():
        hidden, frames = module.encoder(*module.front_end(waveform, SAME_LENGTHS))
    torch.manual_seed(1)
    pairs = draw_pairs(5, probability=1.0, alpha=2.0, weight=0.4)
    keep = (pairs.rows != 4) & (pairs.partners != 4)
    pairs = Pairs(*(tensor[keep] for tensor in pairs))
    logits, _ = module.head(mix_rows(hidden, pairs), frames)
    own, partner = torch.arange(5), torch.arange(5).index_copy(0, pairs.rows, pairs.partners)
    weights = torch.zeros(5).index_copy(0, pairs.rows, pairs.weights)
    losses = [module.loss(logits, TARGETS[of], frames, TARGET_LENGTHS[of]) for of in (own, partner)]
    expected = (1 - weights) * losses[0] + weights * losses[1]
    module.training = True  # of the task alone: norms stay as they are
    result = mixed(trainer, module, ManifoldMixup(1.0, weight=0.4, modules=["encoder"]), waveform, SAME_LENGTHS)
    torch.testing.assert_close(result, expected)


def test_manifold_mixup_visits_every_depth_of_any_encoder(trainer: Any) -> None:
    transformer = Wav2Vec2Encoder(
        input_dim=20,
        channels=16,
        kernel_sizes=(3,),
        strides=(2,),
        conv_norm="layer",
        output_dim=16,
        num_layers=2,
        num_heads=2,
        feed_forward_dim=16,
        position_kernel_size=8,
        position_groups=4,
        layer_drop=0.5,
    )
    for encoder in (None, transformer):
        module = task(encoder)
        callback = ManifoldMixup(1.0, weight=0.5)
        trainer.callbacks = [callback]
        callback.setup(trainer, module, "fit")
        results = []
        for step in range(12):
            callback.on_train_batch_start(trainer, module, None, step)
            results.append(losses_of(module, waveforms()))
        assert torch.isfinite(torch.stack(results)).all()
        assert len({tuple(result.tolist()) for result in results}) > 3
        torch.stack(results).sum().backward()
        callback.teardown(trainer, module, "fit")
        assert not any(part._forward_hooks for part in module.modules())


def test_padding_of_a_longer_batch_changes_no_mixture(trainer: Any) -> None:
    module = task(ConvGRUEncoder(input_dim=20, channels=16, hidden_size=8, dropout=0.0, bidirectional=True))
    short = mixed(trainer, module, Mixup(1.0, weight=0.4), waveforms())
    longer = torch.nn.functional.pad(waveforms(), (0, 8000))
    torch.testing.assert_close(mixed(trainer, module, Mixup(1.0, weight=0.4), longer), short, atol=1e-4, rtol=1e-4)


def test_only_the_first_pass_of_a_step_is_mixed_and_none_in_evaluation(trainer: Any) -> None:
    module, callback, waveform = task(ConvGRUEncoder(input_dim=20, dropout=0.0)), Mixup(1.0, weight=0.5), waveforms()
    plain = losses_of(module, waveform)
    trainer.callbacks = [callback]
    callback.setup(trainer, module, "fit")
    callback.on_train_batch_start(trainer, module, None, 0)
    assert not torch.equal(losses_of(module, waveform), plain)
    assert torch.equal(losses_of(module, waveform), plain)
    callback.on_train_batch_start(trainer, module, None, 1)
    module.eval()
    assert torch.equal(losses_of(module, waveform), plain)


@pytest.mark.parametrize("smoothing_first", [True, False])
def test_options_of_other_callbacks_reach_both_texts(trainer: Any, smoothing_first: bool) -> None:
    waveform, mixup = waveforms(), Mixup(1.0, weight=0.4)
    results = []
    for module in (task(), task()):
        trainer.callbacks = [LabelSmoothing(0.1), mixup] if smoothing_first else [mixup, LabelSmoothing(0.1)]
        if not results:  # by hand: a loss that always smooths
            trainer.callbacks = [mixup]
            module.loss.forward = partial(module.loss.forward, label_smoothing=0.1)  # type: ignore[method-assign]
        for callback in trainer.callbacks:
            callback.setup(trainer, module, "fit")
        mixup.on_train_batch_start(trainer, module, None, 0)
        torch.manual_seed(1)
        results.append(losses_of(module, waveform))
        mixup.teardown(trainer, module, "fit")
    assert torch.equal(results[0], results[1])


def test_a_text_without_an_alignment_counts_0_and_the_other_its_share(trainer: Any) -> None:
    module, callback = task(), Mixup(1.0, weight=0.25)
    callback.setup(trainer, module, "fit")
    callback._pairs = Pairs(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.25, 0.25]))
    callback._lengths = torch.tensor([6, 6])  # of features, two for a frame
    logits, frames = torch.randn(2, 3, 3), torch.tensor([3, 3])
    targets, counts = torch.tensor([[1, 1, 1, 1], [2, 0, 0, 0]]), torch.tensor([4, 1])
    losses = module.loss(logits, targets, frames, counts)
    callback.teardown(trainer, module, "fit")
    feasible = module.loss(logits, targets[[1, 1]], frames, counts[[1, 1]])
    torch.testing.assert_close(losses, torch.tensor([0.25, 0.75]) * feasible)


def test_a_text_without_an_alignment_has_none_in_a_longer_partner(trainer: Any) -> None:
    module, callback = task(), Mixup(1.0, weight=0.25)
    callback.setup(trainer, module, "fit")
    callback._pairs = Pairs(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([0.25, 0.25]))
    callback._lengths = torch.tensor([6, 40])
    logits, frames = torch.randn(2, 20, 3), torch.tensor([20, 20])  # the shorter one goes on in zeros
    targets, counts = torch.tensor([[1, 1, 1, 1], [2, 0, 0, 0]]), torch.tensor([4, 1])
    losses = module.loss(logits, targets, frames, counts)
    callback.teardown(trainer, module, "fit")
    feasible = module.loss(logits, targets[[1, 1]], frames, counts[[1, 1]])
    torch.testing.assert_close(losses, torch.tensor([0.25, 0.75]) * feasible)


def test_strengths_follow_a_ramp(trainer: Any) -> None:
    plain = losses_of(task(), waveforms())
    trainer.global_step = 0
    assert torch.equal(mixed(trainer, task(), Mixup(Ramp(0.0, 1.0), weight=0.4), waveforms()), plain)
    trainer.global_step = 100
    full = mixed(trainer, task(), Mixup(1.0, weight=0.4), waveforms())
    assert torch.equal(mixed(trainer, task(), Mixup(Ramp(0.0, 1.0), weight=0.4), waveforms()), full)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixup(1.5), r"`probability` must lie in \[0, 1\], got 1.5"),
        (lambda: Mixup(Ramp(0.0, 1.2)), r"`probability` must lie in \[0, 1\], got 1.2"),
        (lambda: Mixup(alpha=0.0), "`alpha` must be positive"),
        (lambda: Mixup(weight=-0.1), "`weight`"),
        (lambda: ManifoldMixup(modules=[]), "`modules`"),
        (lambda: Ramp(0.0, 1.0, until=0.0), "`until`"),
    ],
)
def test_wrong_values_are_named(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_cannot_go_together_is_refused_at_the_start(trainer: lightning.Trainer) -> None:
    front_end = FrontEnd(features=MFB(num_mels=20))
    pretraining = ContrastivePretraining(front_end=front_end, encoder=ConvGRUEncoder(input_dim=20))
    with pytest.raises(ValueError, match="ContrastivePretraining has none"):
        Mixup().setup(trainer, pretraining, "fit")
    with pytest.raises(ValueError, match="decoder"):
        ManifoldMixup(modules=["decoder"]).setup(trainer, task(), "fit")
    trainer.callbacks = [Mixup(), ManifoldMixup()]
    with pytest.raises(ValueError, match="one of Mixup and ManifoldMixup"):
        trainer.callbacks[1].setup(trainer, task(), "fit")
    trainer.callbacks = [ActivationCheckpointing(["encoder"])]
    with pytest.raises(ValueError, match="must not lie in 'encoder'"):
        ManifoldMixup().setup(trainer, task(), "fit")
