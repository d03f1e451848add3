"""Distillation: a trained recogniser, the teacher, says more of each utterance than its text does."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechkit.bundle import Bundle, load_bundle
from speechkit.callbacks.cutmix import CutMix
from speechkit.callbacks.loss_term import LossTerm
from speechkit.callbacks.mixup import Mixup
from speechkit.callbacks.spec_augment import refuse_time_warp
from speechkit.data.manifest import expand_path
from speechkit.decoding import BeamSearch, greedy_decode
from speechkit.masking import length_mask

LEVELS = ("frame", "sequence")


def frames_around_labels(logits: Tensor, lengths: Tensor, *, blank: int, context_frames: int | None) -> Tensor:
    """Frames whose likeliest symbol is a label, and those near them.

    Args:
        logits: (B, T, V).
        lengths: (B,) frames.
        blank: id of the blank.
        context_frames: how many on either side; none takes all frames.

    Returns:
        (B, T) bool, False beyond each length.
    """
    inside = length_mask(lengths, logits.shape[1])
    if context_frames is None:
        return inside
    is_label = (logits.argmax(dim=-1) != blank) & inside
    near = F.max_pool1d(is_label.float()[:, None], 2 * context_frames + 1, stride=1, padding=context_frames)[:, 0]
    return (near > 0) & inside


def frame_divergences(logits: Tensor, teacher_logits: Tensor, frames: Tensor, temperature: float) -> Tensor:
    """temperature^2 times the mean KL divergence from the teacher's distributions to those of the logits.

    Both are softened by the temperature, whose square keeps the size of the gradient (Hinton et al. 2015,
    arXiv 1503.02531, section 2).

    Args:
        logits: (B, T, V).
        teacher_logits: (B, T, V).
        frames: (B, T) bool, those that count.
        temperature: of both.

    Returns:
        (B,) in nats; 0 where no frame counts.
    """
    log_probs = (logits[frames] / temperature).log_softmax(dim=-1)
    teacher_log_probs = (teacher_logits[frames] / temperature).log_softmax(dim=-1)
    divergences = F.kl_div(log_probs, teacher_log_probs, reduction="none", log_target=True).sum(dim=-1)
    sums = divergences.new_zeros(len(frames)).index_add(0, frames.nonzero()[:, 0], divergences)
    return temperature**2 * sums / frames.sum(dim=1).clamp(min=1)


class Distillation(LossTerm):
    """Adds `weight` times the distance to a teacher that hears the same waveform (Hinton et al. 2015).

    "frame": the Kullback-Leibler divergence of the frames' distributions. CTC emits a label in one frame or two and is
    sure of the blank in all others. The mean over all frames would be about blanks, and would bind the student to where
    the teacher has its peaks and nothing else. So only the frames count where the teacher's best symbol is a label, and
    `context_frames` to either side: blanks around the labels, which Hilmes et al. 2025 (arXiv 2506.01503) found to
    matter where the elimination of all blanks fails. There the student is led to peak where the teacher does, as in
    guided CTC training (Kurata and Audhkhasi 2019, arXiv 1904.08311); elsewhere CTC alone decides. Both must have the
    same frames. The mean over these few frames, like the loss per label, does not depend on how long labels last.

    "sequence": CTC towards what the teacher hears (Kim and Rush 2016, arXiv 1606.07947; for CTC: Takashima et al. 2018,
    "An investigation of a knowledge distillation method for CTC acoustic models"), per label. That is its greedy text,
    or the best `num_best` of a beam search, each weighed by its probability among them. Peaks may be anywhere, frame
    rates differ, and the temperature softens the weights.

    The teacher sees the batch as it leaves the data workers, without what callbacks do to features. It is in evaluation
    mode, in single precision, on the device of each process, and is no part of the task: neither checkpoints nor the
    bundle hold it, and no strategy wraps it.

    Args:
        teacher: bundle of a recogniser, with the vocabulary of the task; `$NAME` is an environment variable.
        weight: nats of loss per nat of distance.
        level: "frame" or "sequence".
        temperature: above 0; more is softer.
        context_frames: of level "frame", frames to either side of the teacher's labels; none takes all frames.
        num_best: of level "sequence", texts of the teacher; more than one takes a beam search.
        beam_size: of that search.
        trusted_packages: packages besides speechkit whose classes the bundle may name.

    Raises:
        ValueError: an argument out of its range; see also `LossTerm`. When a training starts: not a recogniser's
            bundle, one with another vocabulary or sample rate, or, of level "frame", with other frames; a callback that
            mixes utterances, which the teacher hears one by one, or, of level "frame", that warps time.
    """

    def __init__(
        self,
        teacher: str,
        *,
        weight: float = 1.0,
        level: str = "frame",
        temperature: float = 1.0,
        context_frames: int | None = 1,
        num_best: int = 1,
        beam_size: int = 20,
        trusted_packages: Sequence[str] = (),
    ) -> None:
        super().__init__(weight)
        if level not in LEVELS:
            raise ValueError(f"`level` must be one of {', '.join(LEVELS)}, got {level!r}.")
        if not 0.0 < temperature < float("inf"):
            raise ValueError(f"`temperature` must be positive and finite, got {temperature}.")
        if context_frames is not None and context_frames < 0:
            raise ValueError(f"`context_frames` must not be negative, got {context_frames}.")
        if not 1 <= num_best <= beam_size:
            raise ValueError(f"`num_best` must lie in [1, beam_size = {beam_size}], got {num_best}.")
        self.teacher, self.level, self.temperature, self.context_frames = teacher, level, temperature, context_frames
        self.num_best, self.beam_size, self.trusted_packages = num_best, beam_size, tuple(trusted_packages)
        self._parts: list[Any] = []  # front end, encoder, head of the teacher
        self._search: BeamSearch | None = None

    def prepare(self, trainer: lightning.Trainer, task: Any) -> None:
        _refuse_mixtures(trainer)
        if self.level == "frame":
            refuse_time_warp(self, trainer)
        with torch.random.fork_rng(devices=[]):  # its parts are initialised before they are loaded
            bundle = load_bundle(expand_path(self.teacher), trusted_packages=self.trusted_packages)
        _check_teacher(self.teacher, bundle, task, same_frames=self.level == "frame")
        parts: list[Any] = [bundle.front_end, bundle.encoder, bundle.head]
        self._parts = [part.requires_grad_(False).to(trainer.strategy.root_device) for part in parts]
        if self.level == "sequence" and self.num_best > 1:
            self._search = BeamSearch(tokenizer=task.tokenizer, beam_size=self.beam_size, num_best=self.num_best)

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        super().teardown(trainer, pl_module, stage)
        self._parts, self._search = [], None

    def term(self, logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        """(B,) the distance to the teacher."""
        with torch.no_grad():
            teacher_logits, lengths = self._batch.waveform, self._batch.lengths
            for part in self._parts:
                teacher_logits, lengths = part(teacher_logits, lengths)
        blank = self._task.tokenizer.blank_id
        if self.level == "frame":
            frames = frames_around_labels(teacher_logits, lengths, blank=blank, context_frames=self.context_frames)
            return frame_divergences(logits, teacher_logits, frames, self.temperature)
        term = logits.new_zeros(len(logits))
        for labels, shares in self._texts(teacher_logits, lengths):
            counts = torch.tensor([len(row) for row in labels], device=logits.device)
            texts = pad_sequence([torch.tensor(row, dtype=torch.long) for row in labels], batch_first=True)
            losses = self._task.loss.forward(logits, texts.to(logits.device), input_lengths, counts)  # without hooks
            term = term + torch.tensor(shares).to(logits) * losses
        return term

    def _texts(self, teacher_logits: Tensor, lengths: Tensor) -> list[tuple[list[list[int]], list[float]]]:
        """The best text of each utterance, as labels, and its share; then the second best; and so on."""
        if self._search is None:
            labels = greedy_decode(teacher_logits, lengths, blank=self._task.tokenizer.blank_id)
            return [(labels, [1.0] * len(labels))]
        texts = []
        found = self._search.decode(teacher_logits, lengths)
        scores = torch.full((len(found), self.num_best), -torch.inf)
        for b, hypotheses in enumerate(found):
            scores[b, : len(hypotheses)] = torch.tensor([hypothesis.score for hypothesis in hypotheses])
        shares = (scores / self.temperature).softmax(dim=1)
        for place in range(max(map(len, found))):
            labels = [row[place].labels if place < len(row) else [] for row in found]
            texts.append((labels, shares[:, place].tolist()))
        return texts


def _refuse_mixtures(trainer: Any) -> None:
    """The teacher hears utterances as they are, where the student hears mixtures of other texts and lengths."""
    for other in trainer.callbacks:
        if isinstance(other, (Mixup, CutMix)):
            name = type(other).__name__
            raise ValueError(f"`trainer.callbacks` must not mix utterances with Distillation, got {name} beside it.")


def _check_teacher(name: str, teacher: Bundle, task: Any, *, same_frames: bool) -> None:
    if teacher.head is None or teacher.tokenizer is None:
        raise ValueError(f"`teacher` must be the bundle of a recogniser, {name} has no head.")
    own, other = task.tokenizer.label_texts(), teacher.tokenizer.label_texts()
    if own != other:
        different = next(pair for pair in zip_longest(own, other) if pair[0] != pair[1])
        raise ValueError(
            f"`teacher` must have the task's vocabulary of {len(own)} labels, {name} has {len(other)},"
            f" and they differ at {different[0]!r} and {different[1]!r}."
        )
    rate, other_rate = task.front_end.sample_rate_hz, teacher.front_end.sample_rate_hz
    if rate != other_rate:
        raise ValueError(f"`teacher` must take audio at the task's {rate} Hz, {name} takes {other_rate} Hz.")
    samples = torch.arange(2 * int(rate))
    frames, other_frames = (
        part.encoder.output_lengths(part.front_end.output_lengths(samples)) for part in (task, teacher)
    )
    if same_frames and not torch.equal(frames, other_frames):
        raise ValueError(
            f'`teacher` must have the task\'s frames at `level` "frame": of 2 s the task makes {int(frames[-1])},'
            f' {name} makes {int(other_frames[-1])}; "sequence" needs no such thing.'
        )
