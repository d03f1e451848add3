"""CTC as a loop over the frames in torch, on any device; and the entropy of the alignment, with its gradient.

States are blank, label, blank, ..., blank. Time and labels reversed, the backward variables are forward ones, so one
loop makes both. All is in float64, and in float32 on devices that have no other.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from speechkit.losses.ctc.batch import Batch
from speechkit.losses.ctc.once import with_gradient

IMPOSSIBLE = -1e30  # log-probability of what cannot be; infinities would meet and give NaN


class _Paths(NamedTuple):
    """All paths of each utterance. A derivative is that by x, at x = 1, where every path has its probability^x."""

    log_totals: Tensor  # (B,) log-probability
    occupancies: Tensor  # (B, T, V) of each symbol in each frame, given the labels
    log_totals_by_x: Tensor  # (B,) their derivative: the mean log-probability of a path, given the labels
    occupancies_by_x: Tensor  # (B, T, V) their derivative: covariance of that and of a symbol's presence


def _log_probs(batch: Batch) -> Tensor:
    dtype = torch.float32 if batch.logits.device.type == "mps" else torch.float64
    return batch.logits.detach().to(dtype).log_softmax(dim=-1)


def _turned(x: Tensor, lengths: Tensor) -> Tensor:
    """Each row (B, N, ...) with its first `length` places in reverse; the rest holds copies of the first."""
    places = (lengths[:, None] - 1 - torch.arange(x.shape[1], device=x.device)).clamp(min=0)
    return x.gather(1, places.reshape(*places.shape, *[1] * (x.dim() - 2)).expand_as(x))


def _back(x: Tensor, num_frames: Tensor, num_states: Tensor) -> Tensor:
    """(B, T, S) with time and states turned."""
    return _turned(_turned(x, num_frames).transpose(1, 2), num_states).transpose(1, 2)


def _sweep(emissions: Tensor, skips: Tensor) -> tuple[Tensor, Tensor]:
    """Forward variables and their derivatives by x, (B, T + 1, S) each, the first of them before any frame.

    Args:
        emissions: (B, T, S) log-probability of each state in each frame.
        skips: (B, S) 0 where the state before the last may be left for this one, impossible elsewhere.
    """
    value = torch.full_like(emissions[:, 0], IMPOSSIBLE)
    value[:, 0] = 0.0
    slope = torch.zeros_like(value)
    values, slopes = [value], [slope]
    width, impossible = value.shape[1], value.new_full((len(value), 2), IMPOSSIBLE)
    for emission in emissions.unbind(dim=1):
        from_before = torch.cat([impossible, value], dim=1)
        ways = torch.stack([value, from_before[:, 1 : 1 + width], from_before[:, :width] + skips])
        slope_of_ways = torch.stack([slope, slope.roll(1, dims=1), slope.roll(2, dims=1)])
        value = ways.logsumexp(dim=0) + emission
        slope = (ways.softmax(dim=0) * slope_of_ways).sum(dim=0) + emission
        values.append(value)
        slopes.append(slope)
    return torch.stack(values, dim=1), torch.stack(slopes, dim=1)


def _paths(log_probs: Tensor, batch: Batch) -> _Paths:
    labels, device = batch.labels(), log_probs.device
    frames = batch.input_lengths.to(device, torch.int64)
    states = torch.full((len(labels), 2 * labels.shape[1] + 1), batch.blank, device=device)
    states[:, 1::2] = labels
    num_states = 2 * batch.target_lengths.to(device, torch.int64) + 1

    symbols = states[:, None].expand(-1, log_probs.shape[1], -1)
    emissions = log_probs.gather(2, symbols).clamp(min=IMPOSSIBLE)
    both = torch.cat([states, _turned(states, num_states)])
    skips = torch.full(both.shape, IMPOSSIBLE, device=device, dtype=log_probs.dtype)
    skips[:, 2:].masked_fill_((both[:, 2:] != batch.blank) & (both[:, 2:] != both[:, :-2]), 0.0)
    values, slopes = _sweep(torch.cat([emissions, _back(emissions, frames, num_states)]), skips)

    alphas, alphas_by_x = values[: len(states)], slopes[: len(states)]
    rows = torch.arange(len(states), device=device)
    last, before = num_states - 1, (num_states - 2).clamp(min=0)  # all paths end in the last blank or label
    ends = torch.stack([alphas[rows, frames, last], alphas[rows, frames, before]])
    ends[1].masked_fill_(num_states == 1, IMPOSSIBLE)
    slope_of_ends = torch.stack([alphas_by_x[rows, frames, last], alphas_by_x[rows, frames, before]])
    log_totals = ends.logsumexp(dim=0)
    log_totals_by_x = (ends.softmax(dim=0) * slope_of_ends).sum(dim=0)

    def through(forward: Tensor, backward: Tensor, total: Tensor) -> Tensor:
        """Of the paths through each state, which both sides have counted with the state's own emission."""
        return forward[:, 1:] + _back(backward[:, 1:], frames, num_states) - emissions - total[:, None, None]

    inside = batch.inside()[:, :, None] & (torch.arange(states.shape[1], device=device) < num_states[:, None])[:, None]
    shares = through(alphas, values[len(states) :], log_totals).exp().masked_fill(~inside, 0.0)
    slopes_of_shares = shares * through(alphas_by_x, slopes[len(states) :], log_totals_by_x).masked_fill(~inside, 0.0)
    nothing = torch.zeros_like(log_probs)
    return _Paths(
        log_totals,
        nothing.scatter_add(2, symbols, shares),
        log_totals_by_x,
        nothing.scatter_add(2, symbols, slopes_of_shares),
    )


@torch.no_grad()
def _losses_and_gradient(batch: Batch, zero_infinity: bool, label_smoothing: float) -> tuple[Tensor, Tensor]:
    log_probs, inside = _log_probs(batch), batch.inside()
    paths = _paths(log_probs, batch)
    losses, gradient = -paths.log_totals, log_probs.exp() - (1.0 - label_smoothing) * paths.occupancies
    if label_smoothing > 0.0:
        to_uniform = -log_probs.mean(dim=-1).masked_fill(~inside, 0.0).sum(dim=1)
        losses = (1.0 - label_smoothing) * losses + label_smoothing * to_uniform
        gradient -= label_smoothing / log_probs.shape[2]
    impossible = paths.log_totals <= 0.1 * IMPOSSIBLE
    losses = losses.masked_fill(impossible, 0.0 if zero_infinity else torch.inf)
    gradient = gradient.masked_fill(impossible[:, None, None], 0.0 if zero_infinity else torch.nan)
    return losses, gradient.masked_fill(~inside[:, :, None], 0.0)


def ctc_losses(batch: Batch, *, zero_infinity: bool, label_smoothing: float) -> Tensor:
    """Losses (B,), differentiable with respect to the logits; arguments as in `speechkit.losses.ctc_loss`."""
    batch = batch.in_single_precision()
    return with_gradient(batch.logits, *_losses_and_gradient(batch, zero_infinity, label_smoothing))


@torch.no_grad()
def ctc_occupancies(batch: Batch) -> Tensor:
    """Occupancies (B, T, V); see `speechkit.losses.ctc_occupancies`."""
    paths = _paths(_log_probs(batch), batch)
    impossible = paths.log_totals <= 0.1 * IMPOSSIBLE
    return paths.occupancies.masked_fill(impossible[:, None, None], 0.0).to(batch.in_single_precision().logits.dtype)


def path_entropies(batch: Batch) -> Tensor:
    """Entropy (B,) of the paths given the labels, in nats, differentiable with respect to the logits; 0 without a path.

    It is the log-probability of all paths less the mean one of a path, and its gradient the covariance, negative, of
    a path's log-probability with the presence of a symbol (Liu et al. 2018, Connectionist temporal classification with
    maximum entropy regularization).
    """
    batch = batch.in_single_precision()
    with torch.no_grad():
        paths = _paths(_log_probs(batch), batch)
        impossible = paths.log_totals <= 0.1 * IMPOSSIBLE
        entropies = (paths.log_totals - paths.log_totals_by_x).masked_fill(impossible, 0.0)
        gradient = -paths.occupancies_by_x.masked_fill(impossible[:, None, None], 0.0)
    return with_gradient(batch.logits, entropies, gradient)
