"""CTC by torch's own operator, on any device: the backend that is always there."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.losses.ctc.feasibility import ctc_feasible
from speechkit.masking import length_mask


def ctc_losses(
    logits: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    *,
    blank: int,
    zero_infinity: bool,
    label_smoothing: float,
) -> Tensor:
    """Losses (B,) of logits (B, T, V) and padded targets (B, U); arguments as in `speechkit.losses.ctc_loss`."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    log_probs = logits.log_softmax(dim=-1)
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
    inside = length_mask(input_lengths.to(logits.device), logits.shape[1])
    to_uniform = -log_probs.mean(dim=-1).masked_fill(~inside, 0.0).sum(dim=1)
    if zero_infinity:
        feasible = ctc_feasible(targets, input_lengths.to(logits.device), target_lengths.to(logits.device))
        to_uniform = to_uniform.masked_fill(~feasible, 0.0)
    return (1.0 - label_smoothing) * losses + label_smoothing * to_uniform


def ctc_occupancies(
    logits: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor, *, blank: int
) -> Tensor:
    """Occupancies (B, T, V), as softmax less gradient; arguments as in `speechkit.losses.ctc_occupancies`."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    with torch.inference_mode(False), torch.enable_grad():
        logits = logits.detach().clone().requires_grad_()
        losses = ctc_losses(
            logits, targets, input_lengths, target_lengths, blank=blank, zero_infinity=False, label_smoothing=0.0
        )
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
    occupancies = (logits.detach().softmax(dim=-1) - gradient).clamp(min=0.0)
    inside = length_mask(input_lengths.to(logits.device), logits.shape[1]) & ~losses.detach().isinf()[:, None]
    return occupancies.masked_fill(~inside[:, :, None], 0.0)
