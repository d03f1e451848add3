"""vq-wav2vec as a task: its loss by hand, its codes stay in use while it learns, and its bundle can be fine-tuned."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from speechkit.bundle import load_bundle, save_bundle
from speechkit.callbacks import CollapseGuard
from speechkit.codebooks import GumbelCodebook, KMeansCodebook, diversity_loss
from speechkit.data import SpeechBatch
from speechkit.encoders import QuantizedEncoder, Wav2VecEncoder
from speechkit.features import MFB, FrontEnd, UtteranceCMVN
from speechkit.losses import draw_negatives, infonce
from speechkit.tasks import ContrastivePretraining, Recognition
from speechkit.text import CharTokenizer

RATE = 8000
CODEBOOKS = {"gumbel": GumbelCodebook, "kmeans": KMeansCodebook}
BOTH = pytest.mark.parametrize("name", CODEBOOKS)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Over tensors so small, several threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_parts(name: str, *, dropout: float = 0.0) -> dict[str, Any]:
    torch.manual_seed(0)
    front_end = FrontEnd(features=MFB(sample_rate_hz=RATE, num_mels=20), cmvn=UtteranceCMVN())
    encoder = Wav2VecEncoder(
        input_dim=20, channels=32, kernel_sizes=(5,), strides=(2,), context_kernel_sizes=(3, 3, 3), dropout=dropout
    )
    codebook = CODEBOOKS[name](input_dim=32, num_codes=16, output_dim=32)
    return {"front_end": front_end, "encoder": QuantizedEncoder(encoder=encoder, codebook=codebook)}


def make_task(name: str, **options: Any) -> ContrastivePretraining:
    return ContrastivePretraining(
        **make_parts(name), **{"num_steps": 2, "num_negatives": 16, "learning_rate": 3e-3, **options}
    )


def make_batch(seed: int = 0) -> SpeechBatch:
    """Tones that change eight times a second, in a little noise."""
    generator = torch.Generator().manual_seed(seed)
    hz = 200 * 2 ** (4 * torch.rand(4, 8, generator=generator)).repeat_interleave(RATE // 8, dim=1)
    waveform = 0.3 * torch.sin(2 * torch.pi * hz.cumsum(dim=1) / RATE)
    waveform += 0.01 * torch.randn(waveform.shape, generator=generator)
    return SpeechBatch(
        waveform=waveform,
        lengths=torch.tensor([RATE, RATE, RATE - 800, RATE - 1600]),
        targets=torch.tensor([[1, 2]] * 4),
        target_lengths=torch.full((4,), 2),
        weights=torch.ones(4),
        loss_scale=0.25,
        ids=list("wxyz"),
        texts=["ab"] * 4,
        speakers=[None] * 4,
        seeds=list(range(4 * seed, 4 * seed + 4)),
    )


@BOTH
def test_loss_is_that_of_code_words(name: str) -> None:
    task, batch = make_task(name, num_steps=1).eval(), make_batch()
    logged: dict[str, float] = {}
    task.log = lambda name, value, **options: logged.update({name: float(value)})
    encoder = task.encoder
    latents, frames = encoder.latents(*task.front_end(batch.waveform, batch.lengths))
    quantized = encoder.codebook(latents)
    real = (torch.arange(latents.shape[1]) < frames[:, None])[:, :, None]
    words = quantized.vectors * real
    context, _ = encoder.encoder.context(words, frames)
    pool = draw_negatives(frames, 16, seeds=batch.seeds)
    contrast = infonce(task.head(context), words, frames, pool)
    usage = (quantized.probabilities * real[..., None]).sum(dim=(0, 1)) / frames.sum()
    own = torch.stack([row[:count].mean() for row, count in zip(quantized.loss, frames.tolist(), strict=True)])
    expected = (contrast.loss + own).mean() + 0.1 * diversity_loss(usage)
    torch.testing.assert_close(task.training_step(batch, 0), expected)
    assert (own.abs().sum() > 0) == (name == "kmeans")
    assert {"train_loss", "train_perplexity_0", "train_perplexity_1", "train_diversity_loss"} <= logged.keys()
    assert logged["train_loss"] == pytest.approx(contrast.loss.mean().item())


@BOTH
@pytest.mark.parametrize("clean_targets", [False, True])
def test_gradients_reach_encoder_and_codebook(name: str, clean_targets: bool) -> None:
    task = make_task(name, clean_targets=clean_targets).train()
    task.log = lambda *args, **options: None
    task.training_step(make_batch(), 0).backward()
    for parameter, value in task.named_parameters():
        assert value.grad is not None, parameter
        assert value.grad.isfinite().all(), parameter
        assert value.grad.any() or parameter.endswith("bias"), parameter


@BOTH
def test_clean_targets_are_quantized_too(name: str) -> None:
    """Where nothing changes the features, clean targets are the targets: one draw serves both."""
    batch, losses = make_batch(), []
    for clean_targets in (False, True):
        task = make_task(name, clean_targets=clean_targets).train()
        result = task(batch.waveform, batch.lengths, seeds=batch.seeds)
        losses.append((result.contrast.loss, result.codes.loss, result.codes.usage, result.codes.soft_usage))
    for plain, clean in zip(*losses, strict=True):
        torch.testing.assert_close(plain, clean)


def test_temperature_falls_with_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    task, batch = make_task("gumbel").train(), make_batch()
    steps: list[int] = []
    temperature = task.encoder.codebook.temperature
    monkeypatch.setattr(task.encoder.codebook, "temperature", lambda step: steps.append(step) or temperature(step))
    monkeypatch.setattr(type(task), "global_step", property(lambda self: 7))
    task(batch.waveform, batch.lengths)
    task.eval()(batch.waveform, batch.lengths)
    assert steps == [7]


def test_seeds_decide_the_codes() -> None:
    task, batch = make_task("gumbel").train(), make_batch()
    losses = [task(batch.waveform, batch.lengths, seeds=seeds).contrast.loss for seeds in ([1, 2, 3, 4], [1, 2, 3, 5])]
    assert torch.equal(losses[0][:3], losses[1][:3])
    assert losses[0][3] != losses[1][3]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*smaller than the logging interval")
@BOTH
def test_learns_and_keeps_its_codes_in_use(name: str) -> None:
    """Without the diversity loss, perplexities end below 11.1 of 16 here. `CollapseGuard` sees them."""
    guard = CollapseGuard(first_step=10)
    logged: list[dict[str, float]] = []

    class Record(lightning.Callback):
        def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
            logged.append({key: value.item() for key, value in trainer.callback_metrics.items()})

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=60,
        callbacks=[guard, Record()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batches = [make_batch(seed) for seed in range(4)]
    trainer.fit(make_task(name, diversity_weight=1.0), *(DataLoader(batches, batch_size=None) for _ in range(2)))
    first, last = (
        {key: sum(step[key] for step in part) / len(part) for key in part[0]} for part in (logged[:4], logged[-4:])
    )
    assert last["train_loss"] < 0.85 * first["train_loss"]
    assert last["train_score_gap"] > first["train_score_gap"]
    for group in range(2):
        assert last[f"train_perplexity_{group}"] > 12
        assert f"train_perplexity_{group}" in guard.readings


@BOTH
def test_its_bundle_can_be_fine_tuned(name: str, tmp_path: Path) -> None:
    task = make_task(name)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    save_bundle(task.bundle("card"), tmp_path / "bundle")
    options: dict[str, Any] = {"tokenizer": CharTokenizer("ab"), "encoder_from": str(tmp_path / "bundle")}
    tuned = Recognition(**make_parts(name, dropout=0.1), **options)
    for key, value in task.encoder.state_dict().items():
        assert torch.equal(tuned.encoder.state_dict()[key], value)
    tuned.log = lambda *args, **kwargs: None
    optimizer, losses = torch.optim.Adam(tuned.parameters(), lr=3e-3), []
    for _ in range(10):
        losses.append(tuned.training_step(make_batch(), 0))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in tuned.parameters())
    assert losses[-1] < 0.7 * losses[0]
    save_bundle(tuned.bundle("card"), tmp_path / "tuned")
    again, batch = load_bundle(tmp_path / "tuned"), make_batch()
    with torch.no_grad():
        logits, _ = again.head(*again.encoder(*again.front_end(batch.waveform, batch.lengths)))
        torch.testing.assert_close(logits, tuned.eval()(batch.waveform, batch.lengths)[0])
    other = make_parts("kmeans" if name == "gumbel" else "gumbel")
    with pytest.raises(ValueError, match=r"its encoder was built with other arguments: codebook\.class_path is"):
        Recognition(**other, **options)
