"""What decoders begin with: logits (B, T, V) -> log-probabilities of each utterance."""

from torch import Tensor

LEAST_LOG_PROB = -1e4  # what is impossible stays finite


def split_log_probs(logits: Tensor, lengths: Tensor, vocab_size: int) -> list[Tensor]:
    """logits (B, T, V), lengths (B,) in frames -> B float32 tensors (frames, V) on the CPU, each contiguous.

    Raises:
        ValueError: a shape that does not fit, NaN, infinity; -inf is taken as far as something else is possible.
    """
    if logits.ndim != 3 or logits.shape[2] != vocab_size:
        raise ValueError(f"`logits` must have the shape (B, T, {vocab_size}), got {tuple(logits.shape)}.")
    sizes = lengths.tolist()
    if lengths.ndim != 1 or len(sizes) != len(logits) or not all(0 <= size <= logits.shape[1] for size in sizes):
        raise ValueError(f"`lengths` must be {len(logits)} numbers from 0 to {logits.shape[1]}, got {sizes}.")
    utterances = [logits[place, :size].detach().cpu().float().log_softmax(-1) for place, size in enumerate(sizes)]
    for place, log_probs in enumerate(utterances):
        if log_probs.sum().isnan():
            raise ValueError(f"`logits` must be finite, got NaN, infinity or a frame of -inf in utterance {place}.")
        log_probs.clamp_(min=LEAST_LOG_PROB)
    return utterances
