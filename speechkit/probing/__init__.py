"""What a representation holds, without fine-tuning: linear probes, ABX, embeddings as files, code words, figures."""

from speechkit.probing.abx import ABXScore, Segment, abx_error, dtw_distance
from speechkit.probing.code_map import CodeMap, map_codes
from speechkit.probing.embed import Embedded, embed_files
from speechkit.probing.extraction import REPRESENTATIONS, FeatureExtractor
from speechkit.probing.linear import LinearProbe
from speechkit.probing.probe import Probe, ProbeAccuracy, probe

__all__ = [
    "REPRESENTATIONS",
    "ABXScore",
    "CodeMap",
    "Embedded",
    "FeatureExtractor",
    "LinearProbe",
    "Probe",
    "ProbeAccuracy",
    "Segment",
    "abx_error",
    "dtw_distance",
    "embed_files",
    "map_codes",
    "probe",
]
