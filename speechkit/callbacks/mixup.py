"""Mixup: utterances of a batch are added up in pairs, and each mixture is trained to be read as both texts."""

import functools
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.callbacks.ramp import Ramp, check_share, training_progress, value_at
from speechkit.losses import CTCLoss, ctc_feasible


class Pairs(NamedTuple):
    """Utterances of a batch that are mixed, each with a partner whose partner it is; M is even."""

    rows: Tensor  # (M,) places in the batch
    partners: Tensor  # (M,) places in the batch
    weights: Tensor  # (M,) share of the partner, in [0, 0.5], the same for both of a pair

    def to(self, device: torch.device) -> "Pairs":
        return Pairs(*(tensor.to(device, non_blocking=True) for tensor in self))


def draw_pairs(batch_size: int, *, probability: float, alpha: float, weight: float | None = None) -> Pairs:
    """Puts the utterances of a batch into pairs at random and chooses some of the pairs; all draws on the CPU.

    A pair's two mixtures at a weight are those at its complement in exchanged places. So a weight over a half is taken
    as its complement, and the greater part of a mixture is the utterance's own (Berthelot et al. 2019, arXiv
    1905.02249, equation 9). Weights 0 and 1 mix nothing.

    Args:
        batch_size: B; of an odd number of utterances one has no partner.
        probability: of a pair being mixed.
        alpha: weights are drawn from Beta(alpha, alpha).
        weight: takes the place of the draw.

    Returns:
        Pairs on the CPU; none that have weight 0.
    """
    num_pairs = batch_size // 2
    if probability == 0.0 or weight in (0.0, 1.0) or num_pairs == 0:  # nothing is drawn, as if it were off
        return Pairs(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    order = torch.randperm(batch_size)[: 2 * num_pairs].view(num_pairs, 2)
    chosen = torch.rand(num_pairs) < probability
    beta = torch.distributions.Beta(alpha, alpha, validate_args=False)
    drawn = beta.sample((num_pairs,)) if weight is None else torch.full((num_pairs,), weight)
    weights = drawn.minimum(1 - drawn)
    chosen &= weights > 0
    order, weights = order[chosen], weights[chosen]
    return Pairs(order.flatten(), order.flip(1).flatten(), weights.repeat_interleave(2))


def longer_of_pairs(lengths: Tensor, pairs: Pairs) -> Tensor:
    """Each mixture is as long as the longer one of its pair, so that both texts have the frames that they had.

    Args:
        lengths: (B,).
        pairs: M of the batch.

    Returns:
        (B,).
    """
    return lengths.index_copy(0, pairs.rows, lengths[pairs.rows].maximum(lengths[pairs.partners]))


def mix_rows(x: Tensor, pairs: Pairs) -> Tensor:
    """x + weight (x of the partner - x) in the rows of the pairs: (B, ...) -> (B, ...).

    What is mixed with its equal is what it was, bit for bit.
    """
    weights = pairs.weights.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    return x.index_copy(0, pairs.rows, torch.lerp(x[pairs.rows], x[pairs.partners], weights))


class Mixup(CleanedUp):
    """Mixes the features of two utterances and the losses of their two texts by the same weights.

    Zhang et al. 2018 (arXiv 1710.09412), for sequences as Meng et al. 2021 (MixSpeech, arXiv 2102.12664): labels of
    CTC cannot be mixed as classes can, since the two alignments are unknown and differ. So with the weight w of the
    partner, the loss of a mixture is (1 - w) CTC(own text) + w CTC(partner's text), each over its number of labels.

    The shorter of two utterances goes on in zeros, the mean after CMVN, and both count as long as the longer one from
    the front end on; masks, norms and the loss see those lengths. A text that has no alignment in its own utterance,
    being too long for it, counts 0 as without mixing, and the other one its share. Fillers are not mixed.

    Pairs are drawn within the batch of a rank, from torch's generator. The second loss is that of the seam `loss`,
    computed for the mixtures alone, with the options that other callbacks pass to it; what other callbacks add to its
    result they add once. Only the first pass of a training step is mixed.

    Args:
        probability: of a pair of utterances being mixed.
        alpha: weights are drawn from Beta(alpha, alpha): the smaller, the more often one utterance dominates.
        weight: of the partner, for all; takes the place of the draw. A weight and its complement are the same.

    Raises:
        ValueError: a probability or weight outside [0, 1], or an `alpha` that is not positive; at the start of
            training, a task without CTC, or another callback that mixes.
    """

    order = Order.MIX
    exclusive = ("targets",)

    def __init__(
        self, probability: float | Ramp = 0.3, alpha: float = 0.5, *, weight: float | Ramp | None = None
    ) -> None:
        check_share("probability", probability)
        if alpha <= 0:
            raise ValueError(f"`alpha` must be positive, got {alpha}.")
        if weight is not None:
            check_share("weight", weight)
        self.probability, self.alpha, self.weight = probability, alpha, weight
        self._handles: list[RemovableHandle] = []
        self._progress = 1.0
        self._is_new_step = False
        self._pairs: Pairs | None = None  # from the front end's pass to the loss
        self._lengths = torch.zeros(0, dtype=torch.long)  # (B,) frames before the shorter ones went on in zeros

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage != "fit":
            return
        name = type(self).__name__
        if not isinstance(getattr(pl_module, "loss", None), CTCLoss):
            raise ValueError(f"{name} needs a task with a CTC `loss`, {type(pl_module).__name__} has none.")
        others = [type(other).__name__ for other in trainer.callbacks if isinstance(other, Mixup) and other is not self]
        if others:
            raise ValueError(f"`callbacks` must hold one of Mixup and ManifoldMixup, got {name} and {others[0]}.")
        self._handles = [
            pl_module.front_end.register_forward_hook(
                lambda module, args, output: self._begin(*output) if pl_module.training else output
            ),
            # before what other callbacks add to the loss, wherever they stand in the list
            pl_module.loss.register_forward_hook(
                functools.partial(self._mix_losses, pl_module.encoder), with_kwargs=True, prepend=True
            ),
        ]

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._progress, self._is_new_step, self._pairs = training_progress(trainer), True, None

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._pairs = None

    def _begin(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, T, F), frames (B,) -> the same shapes; draws who is mixed in this step."""
        if not self._is_new_step:
            return features, lengths
        self._is_new_step = False
        pairs = draw_pairs(
            len(lengths),
            probability=value_at(self.probability, self._progress),
            alpha=self.alpha,
            weight=None if self.weight is None else value_at(self.weight, self._progress),
        )
        if len(pairs.rows) == 0:
            return features, lengths
        pairs = pairs.to(features.device)
        are_speech = (lengths[pairs.rows] > 0) & (lengths[pairs.partners] > 0)  # fillers are of length 0
        partners = pairs.partners.where(are_speech, pairs.rows)
        self._pairs, self._lengths = Pairs(pairs.rows, partners, pairs.weights.where(are_speech, 0.0)), lengths
        return self._mix_features(features, self._pairs), longer_of_pairs(lengths, self._pairs)

    def mixed_rows(self) -> Tensor:
        """Places in the batch of the step that are mixtures, from the front end's pass to the loss."""
        return torch.zeros(0, dtype=torch.long) if self._pairs is None else self._pairs.rows

    def _mix_features(self, features: Tensor, pairs: Pairs) -> Tensor:
        return mix_rows(features, pairs)

    def _mix_losses(
        self, encoder: Any, module: CTCLoss, args: tuple[Any, ...], kwargs: dict[str, Any], losses: Tensor
    ) -> Tensor:
        """Losses (B,) of the own texts -> losses (B,) of the mixtures."""
        if self._pairs is None:
            return losses
        pairs, self._pairs = self._pairs, None
        logits, targets, input_lengths, target_lengths = args
        # not by calling the module, whose hooks have run
        rows, partners = pairs.rows, pairs.partners
        seconds = module.forward(
            logits[rows], targets[partners], input_lengths[rows], target_lengths[partners], **kwargs
        )
        # what had no alignment in its own audio has none in that of a longer partner
        fits = ctc_feasible(targets, encoder.output_lengths(self._lengths), target_lengths)
        firsts, seconds = losses[rows].where(fits[rows], 0.0), seconds.where(fits[partners], 0.0)
        return losses.index_copy(0, rows, torch.lerp(firsts, seconds, pairs.weights.to(losses.dtype)))
