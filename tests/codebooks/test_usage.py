"""How evenly codes are used: known shares, padding, and ranks that are one."""

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from speechkit.codebooks import Quantized, code_use, diversity_loss, perplexity


def material() -> tuple[Tensor, Tensor, Tensor]:
    """Codes (B, T, G), logits (B, T, G, V), lengths (B,)."""
    torch.manual_seed(7)
    return torch.randint(8, (4, 6, 2)), torch.randn(4, 6, 2, 8, requires_grad=True), torch.tensor([6, 3, 2, 5])


def quantized(codes: Tensor, logits: Tensor) -> Quantized:
    return Quantized(torch.zeros(*codes.shape[:2], 1), codes, logits.softmax(dim=-1), codes.float().mean(dim=-1))


def test_use_is_that_of_the_real_frames() -> None:
    codes, logits, lengths = material()
    use = code_use(quantized(codes, logits), lengths, joined=True)
    real = torch.arange(6) < lengths[:, None]
    for group in range(2):
        shares = torch.bincount(codes[..., group][real], minlength=8) / real.sum()
        torch.testing.assert_close(use.usage[group], shares)
    torch.testing.assert_close(use.soft_usage, logits.softmax(dim=-1)[real].mean(dim=0))
    expected = [codes[b, :length].float().mean().item() for b, length in enumerate(lengths.tolist())]
    assert use.loss.tolist() == pytest.approx(expected)
    assert not code_use(quantized(codes, logits), torch.zeros(4, dtype=torch.long), joined=False).usage.any()


def rank_job(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    codes, logits, lengths = material()
    own = slice(2 * rank, 2 * rank + 2)
    use = code_use(quantized(codes[own], logits[own]), lengths[own], joined=True)
    diversity_loss(use.soft_usage).backward()
    gradient = logits.grad / 2  # DDP's mean over ranks
    torch.distributed.all_reduce(gradient)
    torch.save((use.usage, gradient), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_have_the_diversity_of_one(tmp_path: Path) -> None:
    codes, logits, lengths = material()
    use = code_use(quantized(codes, logits), lengths, joined=True)
    diversity_loss(use.soft_usage).backward()
    torch.multiprocessing.spawn(rank_job, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        joined, gradient = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        torch.testing.assert_close(joined, use.usage)
        torch.testing.assert_close(gradient, logits.grad)


def test_perplexity_counts_the_codes_in_use() -> None:
    usage = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(perplexity(usage), torch.tensor([4.0, 2.0, 1.0]), atol=1e-5, rtol=0)
    assert diversity_loss(usage).item() == pytest.approx(1 - 7 / 12)
