"""What a recipe asks of its data, for `speechkit data check --config`."""

import torch

from speechkit.data.check import Recipe
from speechkit.pipelines.recipes import find_recipe
from speechkit.pipelines.training import parse
from speechkit.tasks import Recognition


def recipe_requirements(name: str) -> Recipe:
    """Builds a fine-tuning recipe's parts and takes rate, tokenizer and strides from them.

    Raises:
        ValueError: no such recipe, or one that does not parse.
    """
    cli = parse(Recognition, [find_recipe(name, "finetune")], ["trainer.logger=false"])
    front_end, encoder = cli.model.front_end, cli.model.encoder

    def output_lengths(num_samples: torch.Tensor) -> torch.Tensor:
        return encoder.output_lengths(front_end.output_lengths(num_samples))

    return Recipe(front_end.sample_rate_hz, cli.model.tokenizer, output_lengths)
