"""wav2vec 2.0's task: its loss against a loop, padding, seeds, what collapses and what is too short."""

import logging
from dataclasses import replace
from typing import Any

import lightning
import pytest
import torch

from speechkit.bundle import load_bundle, save_bundle
from speechkit.callbacks import ActivationCheckpointing
from speechkit.codebooks import GumbelCodebook, KMeansCodebook
from speechkit.data.dataset import SpeechBatch
from speechkit.encoders import ConvGRUEncoder, Wav2Vec2Encoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN, Waveform
from speechkit.losses import Negatives, draw_negatives_per_anchor
from speechkit.tasks import MaskedContrastivePretraining
from speechkit.tasks.recognition import load_pretrained_encoder

ENCODER: dict[str, Any] = {
    "channels": 16, "output_dim": 32, "num_layers": 2, "num_heads": 4, "feed_forward_dim": 48, "position_groups": 4,
    "position_kernel_size": 16, "dropout": 0.0, "layer_drop": 0.0,
}  # fmt: skip


def make_task(**options: Any) -> MaskedContrastivePretraining:
    torch.manual_seed(0)
    front_end = FrontEnd(features=Waveform(), cmvn=UtteranceCMVN())
    parts: dict[str, Any] = {
        "front_end": front_end,
        "encoder": Wav2Vec2Encoder(**ENCODER),
        "codebook": GumbelCodebook(input_dim=16, num_codes=8, output_dim=16),
        "prediction_dim": 12,
        "num_negatives": 10,
    }
    return MaskedContrastivePretraining(**{**parts, **options})


def make_batch(lengths: list[int]) -> SpeechBatch:
    torch.manual_seed(3)
    size = len(lengths)
    return SpeechBatch(
        waveform=0.1 * torch.randn(size, max(lengths)),
        lengths=torch.tensor(lengths),
        targets=torch.zeros(size, 0, dtype=torch.long),
        target_lengths=torch.zeros(size, dtype=torch.long),
        weights=torch.ones(size),
        loss_scale=1.0 / size,
        ids=[f"utterance-{length}" for length in lengths],
        texts=[""] * size,
        speakers=[None] * size,
        seeds=list(range(size)),
    )


@pytest.mark.parametrize("norm", [{"conv_norm": "group"}, {"conv_norm": "layer", "conv_bias": True, "pre_norm": True}])
def test_padding_changes_no_loss(norm: dict[str, Any]) -> None:
    task = make_task(encoder=Wav2Vec2Encoder(**ENCODER, **norm)).eval()
    waveform = torch.randn(2, 16000)
    mask = torch.zeros(2, 49, dtype=torch.bool)
    mask[0, 5:15] = mask[1, 3:13] = True
    negatives = draw_negatives_per_anchor(mask.sum(dim=1), 10)
    together = task(waveform, torch.tensor([16000, 6000]), mask, negatives)
    alone = task(waveform[1:, :6000], torch.tensor([6000]), mask[1:, :18], Negatives(None, negatives.frame[1:]))
    torch.testing.assert_close(together.contrast.loss[1:], alone.contrast.loss, atol=1e-4, rtol=0)
    torch.testing.assert_close(together.penalty[1:], alone.penalty, atol=1e-5, rtol=1e-4)


def test_a_step_is_a_function_of_the_batchs_seeds_and_reaches_every_parameter() -> None:
    task, batch = make_task().train(), make_batch([16000, 9000])
    task.log = lambda *args, **kwargs: None
    losses = [task.training_step(replace(batch, seeds=seeds), 0) for seeds in ([5, 6], [5, 6], [5, 7])]
    assert losses[0] == losses[1] != losses[2]
    losses[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in task.parameters())


def test_the_gradient_of_the_convolutions_is_scaled() -> None:
    gradients = []
    for scale in (1.0, 0.25):
        task = make_task(latent_gradient_scale=scale).eval()
        torch.manual_seed(1)
        task(torch.randn(1, 9000), torch.tensor([9000])).contrast.loss.sum().backward()
        gradients.append((task.encoder.subsampling.convs[1].weight.grad, task.encoder.projection.weight.grad))
    torch.testing.assert_close(gradients[1][0], 0.25 * gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


@pytest.mark.parametrize("modules", [["encoder.subsampling"], ["encoder.layers"]])
def test_activation_checkpointing_changes_no_number(modules: list[str]) -> None:
    trainer, results = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), []
    for callback in (None, ActivationCheckpointing(modules)):
        torch.manual_seed(0)
        task = make_task(encoder=Wav2Vec2Encoder(**{**ENCODER, "dropout": 0.1, "layer_drop": 0.3})).train()
        if callback is not None:
            callback.setup(trainer, task, "fit")
        torch.manual_seed(1)
        result = task(torch.randn(2, 9000), torch.tensor([9000, 5000]))
        result.contrast.loss.sum().backward()
        results.append([p.grad for p in task.encoder.parameters()])
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@pytest.mark.parametrize("codebook", [GumbelCodebook, KMeansCodebook])
def test_learns_to_tell_masked_frames_apart(codebook: type) -> None:
    """Utterances of a few tones in turn: a masked span is known from what is around it."""
    torch.manual_seed(0)
    front_end = FrontEnd(features=MFB(sample_rate_hz=8000, num_mels=12), cmvn=UtteranceCMVN())
    encoder = Wav2Vec2Encoder(
        **{**ENCODER, "position_kernel_size": 16}, input_dim=12, kernel_sizes=(3,), strides=(2,),
        conv_norm="layer", conv_bias=True, padded=True,
    )  # fmt: skip
    task = make_task(
        front_end=front_end, encoder=encoder, codebook=codebook(input_dim=16, num_codes=8, output_dim=16),
        span_length=4, start_probability=0.08, latent_gradient_scale=1.0, penalty_weight=0.0,
    ).train()  # fmt: skip
    time = torch.arange(8000) / 8000
    hz = 300 * 1.6 ** ((8 * time).floor() % 5)
    waveform = 0.3 * torch.sin(2 * torch.pi * hz * time).repeat(4, 1) + 0.01 * torch.randn(4, 8000)
    optimizer, task.log = torch.optim.Adam(task.parameters(), lr=3e-3), lambda *args, **kwargs: None
    batch = replace(make_batch([8000] * 4), waveform=waveform)
    before = task.eval()(waveform, batch.lengths).contrast
    task.train()
    for _ in range(60):
        optimizer.zero_grad()
        task.training_step(batch, 0).backward()
        optimizer.step()
    after = task.eval()(waveform, batch.lengths).contrast
    assert after.score_gap.mean() > 0.2 > abs(before.score_gap.mean())
    assert after.accuracy.mean() > 0.4


def test_too_short_utterances_are_named_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    task, batch = make_task().train(), make_batch([16000, 300, 420])
    task.log = lambda *args, **kwargs: None
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            loss = task.training_step(batch, 0)
    loss.backward()
    assert loss.isfinite()
    assert [record.getMessage() for record in caplog.records] == [
        f"utterance-{name} frames are masked and have different codes, so its loss counts as 0"
        for name in ("300: no two of its 0", "420: no two of its 1")
    ]
    only_short = task.training_step(make_batch([300]), 0)
    only_short.backward()
    assert only_short.isfinite()


def test_pretraining_goes_on_from_a_bundle(tmp_path) -> None:
    task = make_task()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.1)
    save_bundle(task.bundle("card"), tmp_path / "bundle")
    again = make_task(start_from=str(tmp_path / "bundle"))
    for name, value in task.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    with pytest.raises(ValueError, match="its head was built with other arguments: output_dim is 12 there and 13 here"):
        make_task(start_from=str(tmp_path / "bundle"), prediction_dim=13)
    with pytest.raises(ValueError, match="num_layers is 2 there and 1 here"):
        make_task(start_from=str(tmp_path / "bundle"), encoder=Wav2Vec2Encoder(**{**ENCODER, "num_layers": 1}))
    make_task(
        start_from=str(tmp_path / "bundle"),
        codebook=GumbelCodebook(input_dim=16, num_codes=8, output_dim=16, first_temperature=0.9),
    )
    assert load_bundle(tmp_path / "bundle").head.codebook.num_codes == 8


class OwnCodebook(GumbelCodebook):
    """One that the project does not have."""


def test_a_codebook_of_ones_own_is_gone_on_from(tmp_path) -> None:
    sizes = {"input_dim": 16, "num_codes": 8, "output_dim": 16}
    task = make_task(codebook=OwnCodebook(**sizes))
    save_bundle(task.bundle(), tmp_path / "bundle")
    make_task(start_from=str(tmp_path / "bundle"), codebook=OwnCodebook(**sizes))
    with pytest.raises(ValueError, match="trusted package"):
        make_task(start_from=str(tmp_path / "bundle"))
    load_pretrained_encoder(str(tmp_path / "bundle"), task.front_end, task.encoder)  # which needs no codebook


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"encoder": ConvGRUEncoder(input_dim=1)}, "`encoder` must mask its latents .*, got ConvGRUEncoder"),
        ({"codebook": GumbelCodebook(input_dim=17)}, "`codebook.input_dim` must be the latents' 16, got 17"),
        ({"temperature": 0.0}, "`temperature` and `num_negatives` must be positive, got 0.0 and 10"),
        ({"num_negatives": 0}, "`temperature` and `num_negatives` must be positive, got 0.1 and 0"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        make_task(**options)
