"""What a codebook's code words stand for: where they lie, how often frames choose them, what is said then."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from speechkit.audio import AudioError
from speechkit.bundle import Bundle
from speechkit.codebooks import perplexity
from speechkit.data import read_utterances
from speechkit.encoders import QuantizedEncoder
from speechkit.heads import MaskedPredictionHead
from speechkit.probing.alignment import Label, align_by, labels_of_frames
from speechkit.probing.extraction import FeatureExtractor, draw_utterances


@dataclass(frozen=True)
class CodeMap:
    """Of G groups of V code words.

    Attributes:
        words: (G, V, D) the code words.
        counts: (G, V) frames that chose each of them; none without a manifest.
        symbols: of each group and code, the label that its frames carry most often; none where none does. None where
            nothing says what is said.
        num_utterances: that were read.
        failures: files that could not be read, one line each.
    """

    words: Tensor
    counts: Tensor | None = None
    symbols: list[list[str | None]] | None = None
    num_utterances: int = 0
    failures: tuple[str, ...] = ()

    @property
    def perplexity(self) -> list[float] | None:
        """Of each group's codes over the frames, 1 to V."""
        if self.counts is None:
            return None
        return perplexity(self.counts / self.counts.sum(dim=1, keepdim=True).clamp(min=1)).tolist()


def map_codes(
    bundle: Bundle,
    manifest: str | os.PathLike[str] | None = None,
    *,
    aligner: Bundle | None = None,
    minutes: float = 30.0,
    seed: int = 0,
    device: str = "cpu",
    on_progress: Callable[[int], Any] = lambda num_utterances: None,
) -> CodeMap:
    """Quantizes the latents of a manifest's utterances and counts.

    Args:
        bundle: with a codebook: in a `QuantizedEncoder`, or in the head of wav2vec 2.0, where nothing is masked here.
        manifest: JSON lines, for the counts.
        aligner: a recogniser of characters or words that says when those of `text` are said, for the symbols.
        minutes: of audio that are drawn from the manifest at random.
        seed: of that draw.
        device: where the modules run.
        on_progress: called with the number of utterances that were done.

    Raises:
        ValueError: a bundle without a codebook, an aligner without text to align, or no utterance that can be read.
    """
    codebook, norm = _codebook(bundle)
    words = codebook.codewords.detach().cpu()
    if manifest is None:
        if aligner is not None:
            raise ValueError("`aligner` needs a manifest, got none.")
        return CodeMap(words)
    extractor = FeatureExtractor(bundle.front_end, bundle.encoder, what="latents", device=device)
    quantize = nn.Sequential(norm, codebook).to(device).eval()
    chosen = draw_utterances(read_utterances(manifest), minutes, seed)
    utterances, codes, failures = [], [], []
    for utterance, latents in zip(chosen, extractor.read(chosen), strict=True):
        on_progress(1)
        if isinstance(latents, AudioError):
            failures.append(str(latents))
        elif len(latents):
            utterances.append(utterance)
            with torch.no_grad():
                codes.append(quantize(latents.to(device)).codes.cpu())
    if not codes:
        raise ValueError(f"{manifest}: no utterance could be read" + (f"; first: {failures[0]}" if failures else ""))
    counts = torch.stack([group.bincount(minlength=words.shape[1]) for group in torch.cat(codes).T])
    symbols = None
    if aligner is not None:
        labels = align_by(aligner, utterances, device=device)
        if not any(labels):
            raise ValueError(f"{manifest}: has no `text` that `aligner` can align")
        symbols = _symbols(codes, labels, extractor, words.shape[1])
    return CodeMap(words, counts, symbols, len(utterances), tuple(failures))


def _codebook(bundle: Bundle) -> tuple[Any, Any]:
    """The codebook, and what latents pass before it."""
    encoder: Any = bundle.encoder
    if isinstance(encoder, QuantizedEncoder):
        return encoder.codebook, nn.Identity()
    if isinstance(bundle.head, MaskedPredictionHead):
        return bundle.head.codebook, encoder.latent_norm
    raise ValueError(
        "`bundle` must have a codebook, in its encoder (vq-wav2vec) or in its head (wav2vec 2.0, pretrained), "
        f"got {type(encoder).__name__} without."
    )


def _symbols(
    codes: Sequence[Tensor], labels: Sequence[Sequence[Label] | None], extractor: FeatureExtractor, num_codes: int
) -> list[list[str | None]]:
    """Of each group and code, the label that most of its frames carry, of those that carry one."""
    num_groups = codes[0].shape[1]
    found = [[Counter[str]() for _ in range(num_codes)] for _ in range(num_groups)]
    for of_frames, said in zip(codes, labels, strict=True):
        symbols = labels_of_frames(said or (), extractor.times(len(of_frames)))
        for symbol, frame in zip(symbols, of_frames.tolist(), strict=True):
            for group, code in enumerate(frame):
                if symbol is not None:
                    found[group][code][symbol] += 1
    return [[counter.most_common(1)[0][0] if counter else None for counter in group] for group in found]
