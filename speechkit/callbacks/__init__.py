"""Plug-ins: each attaches torch's own hooks to a submodule of a task in `setup` and removes them in `teardown`."""

from speechkit.callbacks.activation_checkpointing import ActivationCheckpointing
from speechkit.callbacks.collapse_guard import CollapseError, CollapseGuard
from speechkit.callbacks.cutmix import CutMix
from speechkit.callbacks.cutout import Cutout
from speechkit.callbacks.data_parallel import DataParallel
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.feature_noise import FeatureNoise
from speechkit.callbacks.filter_augment import FilterAugment
from speechkit.callbacks.frequency_warp import FrequencyWarp
from speechkit.callbacks.gradual_unfreezing import GradualUnfreezing
from speechkit.callbacks.label_smoothing import LabelSmoothing
from speechkit.callbacks.manifold_mixup import ManifoldMixup
from speechkit.callbacks.mixup import Mixup
from speechkit.callbacks.ramp import Ramp
from speechkit.callbacks.representation_probe import RepresentationProbe
from speechkit.callbacks.spec_augment import SpecAugment
from speechkit.callbacks.step_seed import StepSeed
from speechkit.callbacks.throughput import Throughput

__all__ = [
    "ActivationCheckpointing",
    "CollapseError",
    "CollapseGuard",
    "CutMix",
    "Cutout",
    "DataParallel",
    "FeatureAugmentation",
    "FeatureNoise",
    "FilterAugment",
    "FrequencyWarp",
    "GradualUnfreezing",
    "LabelSmoothing",
    "ManifoldMixup",
    "Mixup",
    "Ramp",
    "RepresentationProbe",
    "SpecAugment",
    "StepSeed",
    "Throughput",
]
