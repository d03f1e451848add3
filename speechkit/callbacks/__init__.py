"""Plug-ins: each attaches torch's own hooks to a submodule of a task in `setup` and removes them in `teardown`."""

from speechkit.callbacks.activation_checkpointing import ActivationCheckpointing
from speechkit.callbacks.collapse_guard import CollapseError, CollapseGuard
from speechkit.callbacks.data_parallel import DataParallel
from speechkit.callbacks.distillation import FloatTeacher, distillation_loss
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.feature_noise import FeatureNoise
from speechkit.callbacks.filter_augment import FilterAugment
from speechkit.callbacks.frequency_warp import FrequencyWarp
from speechkit.callbacks.gradual_unfreezing import GradualUnfreezing
from speechkit.callbacks.label_smoothing import LabelSmoothing
from speechkit.callbacks.quantization_aware_training import QuantizationAwareTraining
from speechkit.callbacks.representation_probe import RepresentationProbe
from speechkit.callbacks.spec_augment import SpecAugment
from speechkit.callbacks.step_seed import StepSeed
from speechkit.callbacks.throughput import Throughput

__all__ = [
    "ActivationCheckpointing",
    "CollapseError",
    "CollapseGuard",
    "DataParallel",
    "FeatureAugmentation",
    "FeatureNoise",
    "FilterAugment",
    "FloatTeacher",
    "FrequencyWarp",
    "GradualUnfreezing",
    "LabelSmoothing",
    "QuantizationAwareTraining",
    "RepresentationProbe",
    "SpecAugment",
    "StepSeed",
    "Throughput",
    "distillation_loss",
]
