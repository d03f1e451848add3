"""What a recipe asks of its data, for `speechkit data check --config`: only the parts that matter are built."""

from collections.abc import Iterable, Sequence

import torch

from speechkit import parts
from speechkit.data import read_utterances
from speechkit.data.check import Recipe
from speechkit.data.manifest import expand_path
from speechkit.pipelines.recipes import find_recipe, read_recipe


def recipe_requirements(name: str, manifest: str) -> Recipe:
    """Rate, strides and tokenizer of a recipe for pretraining (which has no tokenizer) or fine-tuning.

    Args:
        name: a recipe's name or file.
        manifest: a tokenizer that takes its vocabulary from the training texts takes it from here where the recipe's
            `data.train` is not at hand.

    Raises:
        ValueError: no such recipe, or one whose parts cannot be built.
    """
    recipe = read_recipe(find_recipe(name))
    data, model = recipe.get("data") or {}, recipe.get("model") or {}
    for part in ("front_end", "encoder"):
        if part not in model:
            raise ValueError(f"--config {name}: must have `model.{part}`")
    front_end, encoder = parts.build(model["front_end"]), parts.build(model["encoder"])
    tokenizer = parts.build(data["tokenizer"]) if data.get("tokenizer") else None
    if tokenizer is not None and tokenizer.vocab_size == 1:
        train = data.get("train") or []
        tokenizer.fit(_texts([train] if isinstance(train, str) else train, manifest))

    def output_lengths(num_samples: torch.Tensor) -> torch.Tensor:
        return encoder.output_lengths(front_end.output_lengths(num_samples))

    return Recipe(front_end.sample_rate_hz, tokenizer, output_lengths)


def _texts(train: Sequence[str], manifest: str) -> Iterable[str]:
    if not train or not all(_is_there(path) for path in train):
        print(f"note: {manifest}: gives the vocabulary, as the recipe's `data.train` is not at hand")
        train = [manifest]
    return [utterance.text or "" for path in train for utterance in read_utterances(path)]


def _is_there(manifest: str) -> bool:
    try:
        return expand_path(manifest).is_file()
    except ValueError:  # a variable that is not set
        return False
