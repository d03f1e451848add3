"""Manifests, archives, checks, importers, sampling, the LightningDataModule, and the synthetic corpus.

`datamodule` imports Lightning and `synthetic` a speech synthesiser, so both are imported by their own names.
"""

from speechkit.data.archive import ArchivedCuts
from speechkit.data.dataset import SpeechBatch, SpeechDataset
from speechkit.data.joining import UtteranceJoining
from speechkit.data.manifest import Utterance, read_cuts, read_utterances, write_utterances
from speechkit.data.sampler import ArchiveBatchSampler, BucketBatchSampler, Draw
from speechkit.data.unlabelled import UnlabelledSpeech

__all__ = [
    "ArchiveBatchSampler",
    "ArchivedCuts",
    "BucketBatchSampler",
    "Draw",
    "SpeechBatch",
    "SpeechDataset",
    "UnlabelledSpeech",
    "Utterance",
    "UtteranceJoining",
    "read_cuts",
    "read_utterances",
    "write_utterances",
]
