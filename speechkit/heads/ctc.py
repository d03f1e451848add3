"""The projection from representations to the logits of labels and blank."""

from torch import Tensor, nn


class CTCHead(nn.Module):
    """Dropout and a linear layer.

    Args:
        input_dim: D.
        vocab_size: V, blank included.
        dropout: on the input.
    """

    def __init__(self, *, input_dim: int, vocab_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(f"`vocab_size` must be at least 2 (blank and a label), got {vocab_size}.")
        self.input_dim, self.vocab_size, self.dropout = input_dim, vocab_size, dropout
        self.input_dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(input_dim, vocab_size)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D), (B,) -> logits (B, T, V), (B,)."""
        return self.projection(self.input_dropout(x)), lengths
