"""Recognition: front end -> encoder -> CTC head, trained on utterances with text."""

import logging
from collections.abc import Sequence
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from speechkit.bundle import Bundle, load_bundle
from speechkit.data import SpeechBatch
from speechkit.decoding import count_errors, greedy_decode
from speechkit.encoders import LayerWeightedEncoder
from speechkit.heads import CTCHead
from speechkit.losses import CTCLoss, ctc_feasible
from speechkit.parts import describe
from speechkit.tasks.optimization import adamw_warmup_cosine
from speechkit.tasks.sharding import shard_parameters
from speechkit.text import Tokenizer, normalize_text

_log = logging.getLogger(__name__)
_OF_TRAINING = (  # may differ from those of the training before
    *("dropout", "attention_dropout", "layer_drop"),
    *("first_temperature", "last_temperature", "temperature_factor"),
)


class Recognition(lightning.LightningModule):
    """CTC training. Seams for callbacks: `front_end`, `encoder`, `encoder.layers.N`, `head`, `loss`.

    Args:
        front_end: waveform -> features; see `speechkit.features`.
        encoder: features -> representations; see `speechkit.encoders`.
        tokenizer: text <-> labels, fitted.
        encoder_from: bundle of a pretrained encoder whose weights are the start.
        start_from: bundle of a recogniser whose weights, those of the head too, are the start: for other speakers,
            other rooms, another subject. Its labels must be the tokenizer's.
        head_first_fraction: with `encoder_from`, the share of the training in which the encoder waits while the head
            learns to read it (Baevski et al. 2020, arXiv 2006.11477, section 4.3); 0 trains both from the start.
        head_dropout: on the input of the head.
        loss: CTC with other options than its defaults.
        learning_rate: peak of AdamW's rate.
        weight_decay: on matrices.
        warmup_fraction: share of the training in which the rate rises.
    """

    # What the best checkpoint has least of: the mean of both error rates, ties broken by the loss. Words alone would
    # choose silence over a beginner's guesses: nothing said is 100 % of words wrong, nearly right can be more. Where
    # labels are phonemes, which few characters come back from as long as they are no word, theirs is the second one.
    monitor = "val_score"

    def __init__(
        self,
        *,
        front_end: nn.Module,
        encoder: nn.Module,
        tokenizer: Tokenizer,
        encoder_from: str | None = None,
        start_from: str | None = None,
        head_first_fraction: float = 0.15,
        head_dropout: float = 0.1,
        loss: CTCLoss | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_fraction: float = 0.1,
    ) -> None:
        super().__init__()
        check_dimensions(front_end, encoder)
        if not 0.0 <= head_first_fraction < 1.0:
            raise ValueError(f"`head_first_fraction` must lie in [0, 1), got {head_first_fraction}.")
        self.front_end, self.encoder, self.tokenizer = front_end, encoder, tokenizer
        self.head = CTCHead(input_dim=encoder.output_dim, vocab_size=tokenizer.vocab_size, dropout=head_dropout)
        self.loss = loss if loss is not None else CTCLoss(blank=tokenizer.blank_id)
        if self.loss.blank != tokenizer.blank_id:
            raise ValueError(f"`loss.blank` must be the tokenizer's, {tokenizer.blank_id}, got {self.loss.blank}.")
        self.learning_rate, self.weight_decay, self.warmup_fraction = learning_rate, weight_decay, warmup_fraction
        self.head_first_fraction = head_first_fraction if encoder_from is not None else 0.0
        if encoder_from is not None:
            load_pretrained_encoder(encoder_from, front_end, encoder)
        if start_from is not None:
            if encoder_from is not None:
                raise ValueError("`start_from` must stand without `encoder_from`, got both.")
            load_recognizer(start_from, front_end, encoder, self.head, tokenizer)
        self._warned_infeasible: set[str] = set()

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """waveform (B, N) in [-1, 1], lengths (B,) in samples -> logits (B, T', V), frames (B,)."""
        return self.head(*self.encoder(*self.front_end(waveform, lengths)))

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        """The mean over the joined batch of each utterance's loss per label."""
        logits, frames = self(batch.waveform, batch.lengths)
        losses = self.loss(logits, batch.targets, frames, batch.target_lengths)
        self._name_infeasible(batch)
        loss = batch.loss_scale * (batch.weights * losses).sum()
        self.log("train_loss", loss.detach(), prog_bar=True, batch_size=len(batch.ids), sync_dist=True)
        return loss

    def on_train_batch_start(self, batch: SpeechBatch, batch_idx: int) -> None:
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1, rank_zero_only=True)

    def on_validation_epoch_start(self) -> None:
        # loss, word errors, words, character errors, characters, label errors, labels
        self._counts = torch.zeros(7, dtype=torch.float64)

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        logits, frames = self(batch.waveform, batch.lengths)
        losses = self.loss(logits, batch.targets, frames, batch.target_lengths)
        paths = greedy_decode(logits, frames, blank=self.tokenizer.blank_id)
        counts = torch.zeros(7, dtype=torch.float64)
        targets = [row[:count].tolist() for row, count in zip(batch.targets, batch.target_lengths, strict=True)]
        for path, target, text, loss, weight in zip(
            paths, targets, batch.texts, losses.tolist(), batch.weights.tolist(), strict=True
        ):
            reference, hypothesis = normalize_text(text), self.tokenizer.decode(path)
            words, characters = count_errors(reference.split(), hypothesis.split()), count_errors(reference, hypothesis)
            labels = count_errors(target, path)
            errors = [value for found in (words, characters, labels) for value in (found.errors, found.length)]
            row = [loss * words.length, *errors]
            counts += weight * torch.tensor(row, dtype=torch.float64)
        self._counts += counts

    def on_validation_epoch_end(self) -> None:
        counts = self.trainer.strategy.reduce(self._counts.float().to(self.device), reduce_op="sum")
        wer, cer, ler = counts[1::2] / counts[2::2].clamp(min=1)
        loss = counts[0] / counts[2].clamp(min=1)
        self.log("val_loss", loss, sync_dist=True)
        second = cer if self.tokenizer.spells_any_word else ler
        self.log("val_score", 0.5 * (wer + second) + 1e-3 * loss, sync_dist=True)
        self.log("val_ler", ler, sync_dist=True)
        self.log("val_wer", wer, prog_bar=True, sync_dist=True)
        self.log("val_cer", cer, prog_bar=True, sync_dist=True)

    def configure_model(self) -> None:
        shard_parameters(self)

    def configure_optimizers(self) -> Any:
        return adamw_warmup_cosine(
            self,
            total_steps=self.trainer.estimated_stepping_batches,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_fraction=self.warmup_fraction,
            held=self.encoder,
            held_fraction=self.head_first_fraction,
        )

    def bundle(self, card: str = "") -> Bundle:
        """What inference needs of this task."""
        return Bundle(self.front_end, self.encoder, self.head, self.tokenizer, card)

    def _name_infeasible(self, batch: SpeechBatch) -> None:
        """Says once which utterances have no alignment, and so teach nothing, whatever callbacks make of them."""
        frames = self.encoder.output_lengths(self.front_end.output_lengths(batch.lengths))
        feasible = ctc_feasible(batch.targets, frames, batch.target_lengths)
        if bool(feasible.all()):
            return
        for name, good in zip(batch.ids, feasible.tolist(), strict=True):
            if not good and name not in self._warned_infeasible:
                self._warned_infeasible.add(name)
                _log.warning("%s: shorter than its text (T' < U + repeats), so its loss counts as 0", name)


def check_dimensions(front_end: nn.Module, encoder: nn.Module) -> None:
    """Raises ValueError where the encoder does not take what the front end gives."""
    if encoder.input_dim != front_end.num_features:
        raise ValueError(
            f"`encoder.input_dim` must equal the number of features, {front_end.num_features}, got {encoder.input_dim}."
        )


def load_recognizer(path: str, front_end: nn.Module, encoder: nn.Module, head: CTCHead, tokenizer: Tokenizer) -> None:
    """Copies the weights of a whole recogniser.

    Raises:
        ValueError: as `load_pretrained_encoder`; a bundle without a head, or with other labels than the tokenizer's.
    """
    bundle = load_pretrained_encoder(path, front_end, encoder, argument="start_from", others=(head, tokenizer))
    if bundle.head is None or bundle.tokenizer is None:
        raise ValueError(f"`start_from` {path}: must be a recogniser, got an encoder alone; take `encoder_from`.")
    theirs, ours = bundle.tokenizer.label_texts(), tokenizer.label_texts()
    if theirs != ours:
        raise ValueError(
            f"`start_from` {path}: its labels must be the tokenizer's, got {len(theirs)}, "
            f"{' '.join(map(repr, theirs[:10]))} ..., for {len(ours)}, {' '.join(map(repr, ours[:10]))} ...; "
            "where these are taken from the training texts, give them in the tokenizer's arguments"
        )
    head.load_state_dict(bundle.head.state_dict())


def load_pretrained_encoder(
    path: str,
    front_end: nn.Module,
    encoder: nn.Module,
    *,
    argument: str = "encoder_from",
    others: Sequence[Any] | None = None,
) -> Bundle:
    """Copies the weights of a bundle's encoder, and the statistics of its front end. Returns the bundle.

    A `LayerWeightedEncoder` takes them for the encoder that it wraps. `argument` is what errors call the path.
    `others` are the parts of the task that the bundle's head and tokenizer are like; without them these are not built.
    Classes of the packages of all these parts, which the recipe has named, are trusted.

    Raises:
        ValueError: not a bundle, or parts that were built with other arguments (but for dropout); it names them.
    """
    if isinstance(encoder, LayerWeightedEncoder):
        encoder = encoder.encoder
    packages = {type(part).__module__.split(".")[0] for part in (front_end, encoder, *(others or ()))}
    pretrained = load_bundle(path, trusted_packages=sorted(packages - {"speechkit"}), encoder_only=others is None)
    for name, own, other in (("front_end", front_end, pretrained.front_end), ("encoder", encoder, pretrained.encoder)):
        different = differences(describe(other), describe(own))
        if different:
            raise ValueError(f"`{argument}` {path}: its {name} was built with other arguments: {'; '.join(different)}.")
        own.load_state_dict(other.state_dict())
    return pretrained


def differences(theirs: Any, ours: Any, name: str = "") -> list[str]:
    """Arguments in which two descriptions of a part differ, but for those that only guide a training."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        if theirs.get("class_path") != ours.get("class_path"):
            theirs, ours = ({"class_path": values.get("class_path")} for values in (theirs, ours))
        keys = [key for key in {**theirs, **ours} if key not in _OF_TRAINING]
        return [
            line
            for key in keys
            for line in differences(theirs.get(key, "default"), ours.get(key, "default"), f"{name}.{key}".lstrip("."))
        ]
    return [] if theirs == ours else [f"{name.replace('init_args.', '')} is {theirs} there and {ours} here"]
