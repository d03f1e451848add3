"""Learning rates over a training: warm-up, decay, and an encoder that waits for its head."""

import pytest
import torch
from torch import nn

from speechkit.tasks.optimization import adamw_warmup_cosine


def rates(held_fraction: float, steps: int = 20) -> tuple[list[float], list[float], nn.ModuleDict]:
    """Rates of the head and of the encoder at every step of a training, and the trained module."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"encoder": nn.Linear(3, 3), "head": nn.Linear(3, 2)})
    options = adamw_warmup_cosine(
        module,
        total_steps=steps,
        learning_rate=0.1,
        weight_decay=0.01,
        warmup_fraction=0.1,
        held=module["encoder"],
        held_fraction=held_fraction,
    )
    optimizer, scheduler = options["optimizer"], options["lr_scheduler"]["scheduler"]
    of_head, of_encoder = [], []
    weight = module["encoder"].weight
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.01 if group["params"][0].dim() > 1 else 0.0)
    for _ in range(steps):
        by_weight = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
        of_head.append(by_weight[id(module["head"].weight)])
        of_encoder.append(by_weight[id(weight)])
        before = weight.detach().clone()
        module["head"](module["encoder"](torch.ones(4, 3))).square().sum().backward()
        optimizer.step()
        scheduler.step()
        assert torch.equal(before, weight) == (of_encoder[-1] == 0.0)
        optimizer.zero_grad()
    return of_head, of_encoder, module


def test_encoder_waits_for_its_share_of_the_training() -> None:
    of_head, of_encoder, _ = rates(0.25)
    assert of_encoder[:5] == [0.0] * 5
    assert of_encoder[5] == pytest.approx(of_head[5] / 2)  # as many steps of warm-up as at the start
    assert of_encoder[6:] == of_head[6:]
    assert min(of_head) > 0.0


def test_rate_rises_then_falls_and_every_parameter_follows_it() -> None:
    of_head, of_encoder, _ = rates(0.0)
    assert of_head == of_encoder
    assert of_head[0] == pytest.approx(0.05)
    assert max(of_head) == of_head[1] == pytest.approx(0.1)
    assert of_head[2:] == sorted(of_head[2:], reverse=True)
    assert of_head[-1] < 0.01


@pytest.mark.parametrize(
    ("options", "said"),
    [({"total_steps": float("inf")}, "max_epochs"), ({"warmup_fraction": 1.5}, "warmup_fraction")],
)
def test_wrong_calls_name_the_argument(options: dict[str, float], said: str) -> None:
    arguments = {"total_steps": 10, "learning_rate": 0.1, "weight_decay": 0.0, "warmup_fraction": 0.1, **options}
    with pytest.raises(ValueError, match=said):
        adamw_warmup_cosine(nn.Linear(2, 2), **arguments)
