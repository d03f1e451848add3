"""Plug-ins: each attaches torch's own hooks to a submodule of a task in `setup` and removes them in `teardown`."""

from speechkit.callbacks.activation_checkpointing import ActivationCheckpointing
from speechkit.callbacks.collapse_guard import CollapseError, CollapseGuard
from speechkit.callbacks.composition import Order, compose
from speechkit.callbacks.confidence_penalty import ConfidencePenalty
from speechkit.callbacks.consistency_regularization import ConsistencyRegularization
from speechkit.callbacks.consistency_training import ConsistencyTraining
from speechkit.callbacks.curriculum import Curriculum
from speechkit.callbacks.cutmix import CutMix
from speechkit.callbacks.cutout import Cutout
from speechkit.callbacks.data_parallel import DataParallel
from speechkit.callbacks.distillation import Distillation
from speechkit.callbacks.domain_adversarial import DomainAdversarial
from speechkit.callbacks.ema import EMA
from speechkit.callbacks.feature_augmentation import FeatureAugmentation
from speechkit.callbacks.feature_noise import FeatureNoise
from speechkit.callbacks.filter_augment import FilterAugment
from speechkit.callbacks.float_teacher import FloatTeacher
from speechkit.callbacks.frequency_warp import FrequencyWarp
from speechkit.callbacks.gradual_unfreezing import GradualUnfreezing
from speechkit.callbacks.label_smoothing import LabelSmoothing
from speechkit.callbacks.layerwise_rate_decay import LayerwiseRateDecay
from speechkit.callbacks.loss_term import LossTerm
from speechkit.callbacks.manifold_mixup import ManifoldMixup
from speechkit.callbacks.minimum_word_error_rate import MinimumWordErrorRate
from speechkit.callbacks.mixup import Mixup
from speechkit.callbacks.pseudo_label import PseudoLabel
from speechkit.callbacks.quantization_aware_training import QuantizationAwareTraining
from speechkit.callbacks.ramp import Ramp
from speechkit.callbacks.representation_probe import RepresentationProbe
from speechkit.callbacks.spec_augment import SpecAugment
from speechkit.callbacks.step_seed import StepSeed
from speechkit.callbacks.swa import SWA
from speechkit.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "SWA",
    "ActivationCheckpointing",
    "CollapseError",
    "CollapseGuard",
    "ConfidencePenalty",
    "ConsistencyRegularization",
    "ConsistencyTraining",
    "Curriculum",
    "CutMix",
    "Cutout",
    "DataParallel",
    "Distillation",
    "DomainAdversarial",
    "FeatureAugmentation",
    "FeatureNoise",
    "FilterAugment",
    "FloatTeacher",
    "FrequencyWarp",
    "GradualUnfreezing",
    "LabelSmoothing",
    "LayerwiseRateDecay",
    "LossTerm",
    "ManifoldMixup",
    "MinimumWordErrorRate",
    "Mixup",
    "Order",
    "PseudoLabel",
    "QuantizationAwareTraining",
    "Ramp",
    "RepresentationProbe",
    "SpecAugment",
    "StepSeed",
    "Throughput",
    "compose",
]
