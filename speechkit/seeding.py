"""Random numbers of each utterance, from a seed of its own: the same on whatever rank, in whatever batch it is."""

from collections.abc import Callable, Sequence
from hashlib import blake2b

import torch
from torch import Tensor


def random_integers(shape: Sequence[int], seeds: Sequence[int] | None, device: torch.device) -> Tensor:
    """Integers in [0, 2^62), so many that their remainders are uniform.

    Args:
        shape: (B, ...), the first axis being that of the utterances. With a longer second axis an utterance's numbers
            begin with those of a shorter one, so padding changes none.
        seeds: B of them, for draws on the CPU; none draws from torch's generator of the device.
        device: of the result.

    Raises:
        ValueError: not as many seeds as utterances.
    """
    return _rows(lambda *args, **kwargs: torch.randint(2**62, *args, **kwargs), shape, seeds, device)


def random_uniform(shape: Sequence[int], seeds: Sequence[int] | None, device: torch.device) -> Tensor:
    """float32 in [0, 1), multiples of 2^-24; arguments and errors as of `random_integers`."""
    return _rows(torch.rand, shape, seeds, device)


def seeds_for(purpose: str, seeds: Sequence[int] | None) -> list[int] | None:
    """Seeds for one of several independent draws for the same utterances."""
    if seeds is None:
        return None
    digests = [blake2b(f"{purpose} {seed}".encode(), digest_size=8).digest() for seed in seeds]
    return [int.from_bytes(digest, "big") >> 1 for digest in digests]


def _rows(
    draw: Callable[..., Tensor], shape: Sequence[int], seeds: Sequence[int] | None, device: torch.device
) -> Tensor:
    if seeds is None:
        return draw(tuple(shape), device=device)
    if len(seeds) != shape[0]:
        raise ValueError(f"`seeds` must be as many as utterances, {shape[0]}, got {len(seeds)}.")
    generator = torch.Generator()
    rows = [draw(tuple(shape[1:]), generator=generator.manual_seed(seed)) for seed in seeds]
    return torch.stack(rows).to(device)
