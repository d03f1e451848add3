"""Fine-tuning: utterances with text (and, if given, a pretrained encoder) -> a recogniser's bundle."""

import os
from collections.abc import Sequence
from pathlib import Path

from speechkit.pipelines.training import train
from speechkit.tasks import Recognition


def finetune(
    configs: Sequence[str],
    out: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    resume_from: str | None = None,
    checkpoint_every_n_steps: int = 200,
) -> Path:
    """Trains `Recognition` by recipes; arguments as in `speechkit.pipelines.training.train`. Returns the bundle."""
    return train(
        Recognition,
        configs,
        out,
        overrides,
        command="finetune",
        resume_from=resume_from,
        checkpoint_every_n_steps=checkpoint_every_n_steps,
    )
