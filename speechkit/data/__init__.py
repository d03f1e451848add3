"""Manifests, checks, importers, sampling, the LightningDataModule, and the synthetic corpus.

`datamodule` imports Lightning and `synthetic` a speech synthesiser, so both are imported by their own names.
"""

from speechkit.data.dataset import SpeechBatch, SpeechDataset
from speechkit.data.manifest import Utterance, read_cuts, read_utterances, write_utterances
from speechkit.data.sampler import BucketBatchSampler, Draw

__all__ = [
    "BucketBatchSampler",
    "Draw",
    "SpeechBatch",
    "SpeechDataset",
    "Utterance",
    "read_cuts",
    "read_utterances",
    "write_utterances",
]
