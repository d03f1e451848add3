"""Trainings that are made to collapse are stopped with the right diagnosis; healthy ones are not."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from speechkit.callbacks import CollapseError, CollapseGuard, StepSeed
from speechkit.callbacks.collapse_guard import effective_rank, feature_std
from speechkit.codebooks import GumbelCodebook
from speechkit.data import SpeechBatch
from speechkit.encoders import ConvGRUEncoder, SeparableConvEncoder, Wav2Vec2Encoder, Wav2VecEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.heads import StepPredictors
from speechkit.masking import length_mask
from speechkit.tasks import ContrastivePretraining, MaskedContrastivePretraining, Recognition
from speechkit.text import CharTokenizer

RATE = 8000
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models so small are slower on more."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def batches(seed: int = 0) -> list[SpeechBatch]:
    """Steps of tones with noise: what comes next can be told."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(4):
        hz = 200 * 2 ** (4 * torch.rand(4, 8, generator=generator)).repeat_interleave(RATE // 8, dim=1)
        waveform = 0.3 * torch.sin(2 * torch.pi * hz.cumsum(dim=1) / RATE)
        waveform += 0.01 * torch.randn(waveform.shape, generator=generator)
        lengths = torch.tensor([RATE, RATE, RATE - 800, RATE - 1600])
        labels = torch.tensor([[1, 2]] * 4)
        result.append(
            SpeechBatch(
                waveform,
                lengths,
                labels,
                torch.full((4,), 2),
                torch.ones(4),
                0.25,
                list("wxyz"),
                ["ab"] * 4,
                [None] * 4,
                list(range(4 * len(result), 4 * len(result) + 4)),
            )
        )
    return result


def parts(encoder: nn.Module | None = None) -> dict[str, nn.Module]:
    torch.manual_seed(0)
    front_end = FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=20), cmvn=UtteranceCMVN())
    encoder = encoder or ConvGRUEncoder(input_dim=20, channels=24, hidden_size=24, num_layers=1, dropout=0.0)
    return {"front_end": front_end, "encoder": encoder}


class Prediction(lightning.LightningModule):
    """Predicts the next latents without negatives: the best it can do is to make all frames the same."""

    def __init__(self) -> None:
        super().__init__()
        self.front_end, self.encoder = parts().values()
        self.head = StepPredictors(context_dim=24, latent_dim=24, num_steps=1)

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        latents, frames = self.encoder.latents(*self.front_end(batch.waveform, batch.lengths))
        context, _ = self.encoder.context(latents, frames)
        error = (self.head(context)[:, :-1, 0] - latents[:, 1:]).square().mean(dim=-1)
        return error[length_mask(frames - 1, error.shape[1])].mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Codes(lightning.LightningModule):
    """Predicts the code of the next latent; without the diversity term, one code for everything is best."""

    def __init__(self, diversity: float) -> None:
        super().__init__()
        self.diversity = diversity
        self.front_end, self.encoder = parts().values()
        self.codebook, self.head = nn.Linear(24, 16), nn.Linear(24, 16)

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        latents, frames = self.encoder.latents(*self.front_end(batch.waveform, batch.lengths))
        context, _ = self.encoder.context(latents, frames)
        codes = F.gumbel_softmax(self.codebook(latents), hard=True)
        inside = length_mask(frames - 1, latents.shape[1] - 1)
        loss = -(self.head(context)[:, :-1].log_softmax(dim=-1) * codes[:, 1:]).sum(dim=-1)[inside].mean()
        usage = self.codebook(latents).softmax(dim=-1)[:, 1:][inside].mean(dim=0)
        perplexity = torch.special.entr(usage).sum().exp()
        self.log("code_perplexity", perplexity, batch_size=4)
        return loss - self.diversity * perplexity.log()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def train(
    task: lightning.LightningModule,
    guard: CollapseGuard,
    *,
    steps: int = 200,
    plugins: list[MixedPrecision] | None = None,
    **options: Any,
) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        plugins=plugins,
        callbacks=[guard, StepSeed()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=5.0,
    )
    trainer.fit(task, DataLoader(batches(), batch_size=None), **options)
    return trainer


def diagnosis(task: lightning.LightningModule, **options: Any) -> str:
    with pytest.raises(CollapseError) as stopped:
        train(task, CollapseGuard(**options))
    message = str(stopped.value)
    assert "\n" not in message
    assert int(re.search(r"now step (\d+)", message)[1]) <= 200
    return message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("temperature", "rate", "seen"),
    [
        (1e-4, 1e-3, "far above that of guessing among the negatives"),
        (1e-4, 0.1, "all frames have come to look alike"),
    ],
)
def test_contrast_with_no_temperature_and_a_hundredfold_rate(temperature: float, rate: float, seen: str) -> None:
    message = diagnosis(ContrastivePretraining(**parts(), temperature=temperature, learning_rate=rate))
    assert seen in message
    assert f"temperature {temperature:.3g}, learning rate" in message
    assert "raise a small temperature" in message.split("What usually helps: ")[1]


@pytest.mark.slow
def test_a_loss_that_stays_at_guessing() -> None:
    task = ContrastivePretraining(**parts(), learning_rate=0.0)
    with pytest.raises(CollapseError, match="still that of guessing among the negatives, long after the warm-up"):
        train(task, CollapseGuard(every_n_steps=2, first_step=2), steps=60)


def test_no_temperature_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        ContrastivePretraining(**parts(), temperature=0.0)


@pytest.mark.slow
def test_prediction_without_negatives_makes_all_frames_alike() -> None:
    message = diagnosis(Prediction())
    assert "all frames have come to look alike" in message
    assert re.search(r"since step \d+ .*latent_std 0\.0", message)


@pytest.mark.slow
def test_codes_without_diversity_term() -> None:
    message = diagnosis(Codes(diversity=0.0))
    assert "the codebook has collapsed to a few codes" in message
    assert "diversity term" in message


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cpc", "slow", "nce", "wav2vec", "wav2vec2", "codes", "recognition"])
def test_healthy_trainings_go_on(kind: str) -> None:
    guard = CollapseGuard()
    wav2vec = Wav2VecEncoder(
        input_dim=20, channels=24, kernel_sizes=(5, 5), strides=(2, 2), context_kernel_sizes=(3, 3, 3)
    )
    wav2vec2 = Wav2Vec2Encoder(
        input_dim=20, channels=24, kernel_sizes=(5, 5), strides=(2, 2), conv_norm="layer", conv_bias=True, padded=True,
        output_dim=24, num_layers=1, num_heads=4, feed_forward_dim=48, position_kernel_size=8, position_groups=4,
    )  # fmt: skip
    separable = SeparableConvEncoder(input_dim=20, channels=16, kernel_sizes=(5,), output_dim=24)
    task: lightning.LightningModule = {
        "cpc": lambda: ContrastivePretraining(**parts(), num_negatives=32),
        "slow": lambda: ContrastivePretraining(**parts(), learning_rate=1e-5),
        "wav2vec": lambda: ContrastivePretraining(**parts(wav2vec), num_steps=3),
        "nce": lambda: ContrastivePretraining(**parts(), objective="nce", score="dot", temperature=1.0),
        "wav2vec2": lambda: MaskedContrastivePretraining(
            **parts(wav2vec2),
            codebook=GumbelCodebook(input_dim=24, num_codes=8, output_dim=16),
            num_negatives=32,
            span_length=4,
            penalty_weight=10.0,
        ),
        "codes": lambda: Codes(diversity=2.0),
        "recognition": lambda: Recognition(**parts(separable), tokenizer=CharTokenizer("ab")),
    }[kind]()
    trainer = train(task, guard, steps=120)
    assert trainer.global_step == 120
    measured = {"loss", "gradient_norm", "context_std", "context_rank"}
    assert guard.readings.keys() >= measured if kind == "recognition" else {*measured, "latent_std", "latent_rank"}
    assert ("train_score_gap" in guard.readings) == (kind not in ("codes", "recognition"))
    assert trainer.callback_metrics["context_rank"] > 2
    assert "latents" not in vars(task.encoder)  # teardown has left nothing behind
    assert not task.encoder._forward_hooks


@pytest.mark.slow
def test_what_was_seen_survives_a_resume(tmp_path: Path) -> None:
    unbroken = diagnosis(Prediction())
    trainer = train(Prediction(), CollapseGuard(), steps=100)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    guard = CollapseGuard()
    with pytest.raises(CollapseError) as stopped:
        train(Prediction(), guard, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert str(stopped.value).split(": loss")[0] == unbroken.split(": loss")[0]  # the same signs since the same steps
    assert int(re.search(r"since step (\d+)", unbroken)[1]) < 100


@pytest.mark.slow
def test_lowering_the_rate_is_tried_first() -> None:
    class Observed(CollapseGuard):
        """Keeps the rates that were trained with."""

        rates: set[float] = set()  # noqa: RUF012

        def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
            super().on_train_batch_end(trainer, *args)
            self.rates.add(round(trainer.optimizers[0].param_groups[0]["lr"], 8))

    guard = Observed(action="lower_rate", patience=2, rate_factor=0.5)
    with pytest.raises(CollapseError, match="look alike"):
        train(Prediction(), guard)
    assert guard.rates == {0.01, 0.005, 0.0025, 0.00125}


@pytest.mark.slow
def test_a_scheduled_rate_is_lowered_for_good() -> None:
    guard = CollapseGuard(action="lower_rate", rate_factor=0.5, patience=3)
    task = ContrastivePretraining(**parts(), temperature=1e-4)
    trainer = train(task, guard, steps=75)  # judged from step 50 on, at 50, 60 and 70
    assert trainer.lr_scheduler_configs[0].scheduler.base_lrs == [0.0005, 0.0005]
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.0005


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the first steps are left out
def test_steps_that_a_scaler_leaves_out_are_no_collapse() -> None:
    """In fp16 the gradients of the first steps are infinite, until the scale has been halved often enough."""

    class Observed(CollapseGuard):
        """Keeps the norms that were seen."""

        norms: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            self.norms.append(self.readings["gradient_norm"])

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, backoff_factor=2.0**-12)
    guard = Observed(every_n_steps=1, patience=5)
    train(
        ContrastivePretraining(**parts(), num_negatives=32),
        guard,
        steps=20,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)],
    )
    assert not math.isfinite(guard.norms[0])
    assert math.isfinite(guard.norms[-1])


def test_deviation_and_rank_of_known_frames() -> None:
    torch.manual_seed(0)
    isotropic = torch.randn(4000, 16)
    assert feature_std(isotropic).item() == pytest.approx(1.0, abs=0.02)
    assert effective_rank(isotropic).item() == pytest.approx(16.0, rel=0.01)
    assert feature_std(torch.ones(100, 16)).item() == pytest.approx(0.0, abs=1e-6)
    line = torch.randn(100, 1) * torch.randn(16) + 3.0
    assert effective_rank(line).item() == pytest.approx(1.0, abs=1e-3)
    plane = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]) @ torch.randn(2, 2) @ torch.eye(2, 16)
    assert 1.0 < effective_rank(plane).item() <= 2.0
    assert effective_rank(torch.ones(5, 3)).item() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"action": "shout"}, "action"), ({"patience": 0}, "patience"), ({"rate_factor": 1.0}, "rate_factor")],
)
def test_wrong_arguments_are_named(options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        CollapseGuard(**options)
