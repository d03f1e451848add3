"""SortaGrad: the first epochs go from short utterances to long ones."""

import lightning

from speechkit.callbacks.composition import CleanedUp, Order
from speechkit.data.datamodule import SpeechDataModule


class Curriculum(CleanedUp):
    """Batches of the first epochs in the order of their longest utterance (Amodei et al. 2016, arXiv 1512.02595,
    section 3.2): CTC learns to align on short ones first, where there are fewer alignments.

    Which utterances share a batch does not change, and the order is a function of the epoch alone: the same for any
    number of ranks, and after a resume.

    Args:
        epochs: how many are sorted; later ones are shuffled as usual.

    Raises:
        ValueError: fewer than one epoch; at the start, no `SpeechDataModule` of manifests: archives are streamed.
    """

    order = Order.BATCH

    def __init__(self, epochs: int = 1) -> None:
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {epochs}.")
        self.epochs = epochs

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, SpeechDataModule) or data.is_archived:
            raise ValueError("Curriculum needs a SpeechDataModule of manifests: an archive is read shard by shard.")
        data.sorted_epochs = self.epochs

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(trainer.datamodule, SpeechDataModule):  # type: ignore[attr-defined]
            trainer.datamodule.sorted_epochs = 0  # type: ignore[attr-defined]
