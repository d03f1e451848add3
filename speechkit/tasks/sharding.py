"""FSDP2: parameters, gradients and optimizer state of a task in shards, one a rank."""

import lightning
import torch.distributed
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from speechkit.encoders.wav2vec2 import WaveformConvs


def shard_parameters(task: lightning.LightningModule) -> None:
    """What a task does in `configure_model`: nothing, unless `trainer.strategy` is Lightning's ModelParallelStrategy.

    The parameters are sharded over all ranks (Zhao et al. 2023, arXiv 2304.11277). Those of a layer, which is a member
    of an `nn.ModuleList` of the encoder, are gathered while it computes, all others while the whole task does. So are
    those of convolutions that are called once for each utterance, of which ranks may have unequal numbers.

    Raises:
        ValueError: checkpoints in shards, which only as many ranks could go on from.
    """
    strategy = task.trainer.strategy
    if not isinstance(strategy, ModelParallelStrategy) or isinstance(task, FSDPModule):
        return
    if strategy._save_distributed_checkpoint:
        raise ValueError("`trainer.strategy.init_args.save_distributed_checkpoint` must be false, got true.")
    mesh = init_device_mesh(strategy.root_device.type, (strategy.world_size,))
    waveform_convs = (module for module in task.encoder.modules() if isinstance(module, WaveformConvs))
    by_utterance = {id(part) for convs in waveform_convs for part in convs.modules()}
    lists = [
        part for part in task.encoder.modules() if isinstance(part, nn.ModuleList) and id(part) not in by_utterance
    ]
    layers = [layer for members in reversed(lists) for layer in members if any(True for _ in layer.parameters())]
    for module in (*layers, task):
        fully_shard(module, mesh=mesh)
        if torch.distributed.get_backend(mesh.get_group()) == "gloo":  # it knows no averages
            module.set_force_sum_reduction_for_comms(True)
