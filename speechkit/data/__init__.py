"""Manifests, archives, checks, importers, sampling, the LightningDataModule, and the synthetic corpus.

`datamodule` imports Lightning and `synthetic` a speech synthesiser, so both are imported by their own names. What
imports torch is imported at its first use: a list of recordings needs none of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechkit.data.manifest import Utterance, read_cuts, read_utterances, write_utterances

if TYPE_CHECKING:
    from speechkit.data.archive import ArchivedCuts
    from speechkit.data.dataset import SpeechBatch, SpeechDataset
    from speechkit.data.joining import UtteranceJoining
    from speechkit.data.sampler import ArchiveBatchSampler, BucketBatchSampler, Draw

__all__ = [
    "ArchiveBatchSampler",
    "ArchivedCuts",
    "BucketBatchSampler",
    "Draw",
    "SpeechBatch",
    "SpeechDataset",
    "Utterance",
    "UtteranceJoining",
    "read_cuts",
    "read_utterances",
    "write_utterances",
]
_LATER = {
    "ArchiveBatchSampler": "sampler",
    "ArchivedCuts": "archive",
    "BucketBatchSampler": "sampler",
    "Draw": "sampler",
    "SpeechBatch": "dataset",
    "SpeechDataset": "dataset",
    "UtteranceJoining": "joining",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'speechkit.data' has no attribute {name!r}")
    return getattr(import_module(f"speechkit.data.{_LATER[name]}"), name)
