"""Plug-ins: each attaches torch's own hooks to a submodule of a task in `setup` and removes them in `teardown`."""

from speechkit.callbacks.activation_checkpointing import ActivationCheckpointing
from speechkit.callbacks.collapse_guard import CollapseError, CollapseGuard
from speechkit.callbacks.consistency_regularization import ConsistencyRegularization
from speechkit.callbacks.consistency_training import ConsistencyTraining
from speechkit.callbacks.data_parallel import DataParallel
from speechkit.callbacks.domain_adversarial import DomainAdversarial
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.feature_noise import FeatureNoise
from speechkit.callbacks.filter_augment import FilterAugment
from speechkit.callbacks.frequency_warp import FrequencyWarp
from speechkit.callbacks.gradual_unfreezing import GradualUnfreezing
from speechkit.callbacks.label_smoothing import LabelSmoothing
from speechkit.callbacks.pseudo_label import PseudoLabel
from speechkit.callbacks.representation_probe import RepresentationProbe
from speechkit.callbacks.spec_augment import SpecAugment
from speechkit.callbacks.step_seed import StepSeed
from speechkit.callbacks.throughput import Throughput

__all__ = [
    "ActivationCheckpointing",
    "CollapseError",
    "CollapseGuard",
    "ConsistencyRegularization",
    "ConsistencyTraining",
    "DataParallel",
    "DomainAdversarial",
    "FeatureAugmentation",
    "FeatureNoise",
    "FilterAugment",
    "FrequencyWarp",
    "GradualUnfreezing",
    "LabelSmoothing",
    "PseudoLabel",
    "RepresentationProbe",
    "SpecAugment",
    "StepSeed",
    "Throughput",
]
