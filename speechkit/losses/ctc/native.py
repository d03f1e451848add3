"""CTC by torch's own operator, on a CPU or with CUDA."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.losses.ctc.batch import Batch
from speechkit.losses.ctc.feasibility import ctc_feasible


def ctc_losses(batch: Batch, *, zero_infinity: bool, label_smoothing: float) -> Tensor:
    """Losses (B,), differentiable with respect to the logits; arguments as in `speechkit.losses.ctc_loss`."""
    logits, targets, input_lengths, target_lengths, blank = batch.in_single_precision()
    logits = logits.masked_fill(~batch.inside()[:, :, None], 0.0)  # padding may hold anything, NaN too
    log_probs = logits.log_softmax(dim=-1).clamp(min=-1e30)  # at -inf torch's operator has gradients that are NaN
    losses = F.ctc_loss(
        log_probs.transpose(0, 1),
        targets.long(),
        input_lengths.long(),
        target_lengths.long(),
        blank=blank,
        reduction="none",
        zero_infinity=zero_infinity,
    )
    if label_smoothing == 0.0:
        return losses
    to_uniform = -log_probs.mean(dim=-1).masked_fill(~batch.inside(), 0.0).sum(dim=1)
    if zero_infinity:
        feasible = ctc_feasible(targets, input_lengths.to(logits.device), target_lengths.to(logits.device))
        to_uniform = to_uniform.masked_fill(~feasible, 0.0)
    return (1.0 - label_smoothing) * losses + label_smoothing * to_uniform


def ctc_occupancies(batch: Batch) -> Tensor:
    """Occupancies (B, T, V), as softmax less gradient; see `speechkit.losses.ctc_occupancies`."""
    with torch.inference_mode(False), torch.enable_grad():
        logits = batch.in_single_precision().logits.detach().clone().requires_grad_()
        others = {name: getattr(batch, name).clone() for name in ("targets", "input_lengths", "target_lengths")}
        losses = ctc_losses(batch._replace(logits=logits, **others), zero_infinity=False, label_smoothing=0.0)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
    occupancies = (logits.detach().softmax(dim=-1) - gradient).clamp(min=0.0)
    inside = batch.inside() & ~losses.detach().isinf()[:, None]
    return occupancies.masked_fill(~inside[:, :, None], 0.0)
