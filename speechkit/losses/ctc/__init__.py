"""Connectionist temporal classification (Graves et al. 2006) on logits."""

from speechkit.losses.ctc.align import Alignment, ctc_align
from speechkit.losses.ctc.api import CTCLoss, ctc_loss, ctc_occupancies
from speechkit.losses.ctc.feasibility import ctc_feasible

__all__ = ["Alignment", "CTCLoss", "ctc_align", "ctc_feasible", "ctc_loss", "ctc_occupancies"]
