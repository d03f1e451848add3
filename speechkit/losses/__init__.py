"""Losses: CTC (on logits), its forced alignment, and contrastive ones with their negatives, as pure functions."""

from speechkit.losses.ctc import Alignment, CTCLoss, ctc_align, ctc_feasible, ctc_loss, ctc_occupancies
from speechkit.losses.divergence import frame_divergence
from speechkit.losses.infonce import InfoNCE, infonce
from speechkit.losses.nce import NCE, contrastive_nce, nce
from speechkit.losses.negatives import Negatives, draw_negatives, draw_negatives_per_anchor, join_ranks, speaker_codes
from speechkit.losses.span_mask import span_mask

__all__ = [
    "NCE",
    "Alignment",
    "CTCLoss",
    "InfoNCE",
    "Negatives",
    "contrastive_nce",
    "ctc_align",
    "ctc_feasible",
    "ctc_loss",
    "ctc_occupancies",
    "draw_negatives",
    "draw_negatives_per_anchor",
    "frame_divergence",
    "infonce",
    "join_ranks",
    "nce",
    "span_mask",
    "speaker_codes",
]
