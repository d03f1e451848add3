"""The adversarial term against a reference written by hand; what is wrong is named at start."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from unlabelled_job import train, unlabelled

from speechkit.callbacks import CutMix, DomainAdversarial, ManifoldMixup, Mixup
from speechkit.callbacks.domain_adversarial import reversal_scale


def test_schedule() -> None:
    assert reversal_scale(0.0, 10.0) == 0.0
    assert reversal_scale(0.1, 10.0) == pytest.approx(torch.tanh(torch.tensor(0.5)).item())
    assert 0.9999 < reversal_scale(1.0, 10.0) < 1.0


def test_gradients_are_those_of_a_classifier_and_of_its_adversary(corpora: Path) -> None:
    def gradients(*callbacks: DomainAdversarial) -> list[dict[str, torch.Tensor]]:
        return train(corpora, list(callbacks), dropout=0.0, learning_rate=0.0, max_steps=2)[2].steps

    class Reference(DomainAdversarial):
        """Without the reversal: the term's own gradients."""

        def added_loss(self, trainer: Any, task: Any, batch: Any) -> torch.Tensor:
            y, lengths = self._seen["layer"]
            means = torch.stack([row[:count].mean(dim=0) for row, count in zip(y, lengths, strict=True)])
            domains = torch.tensor([["train0", "train1"].index(name) for name in batch.speakers])
            return F.cross_entropy(task.domain_classifier.layers(means), domains)

    options = {"weight": 3.0, "domain": "speaker"}
    plain, found, own = gradients(), gradients(DomainAdversarial(**options)), gradients(Reference(**options))
    scale = 3.0 * reversal_scale(0.5, 10.0)  # at the second of two steps
    for name, gradient in found[1].items():
        if name.startswith("domain_classifier"):
            torch.testing.assert_close(gradient, own[1][name])
        else:
            of_task, of_term = plain[1][name], own[1][name] - plain[1][name]
            torch.testing.assert_close(gradient, of_task - scale * of_term, atol=1e-5, rtol=1e-4)
    for name, gradient in plain[0].items():  # at the first step nothing is reversed yet
        torch.testing.assert_close(found[0][name], gradient)


@pytest.mark.parametrize("mixer", [Mixup(), CutMix(), ManifoldMixup()], ids=lambda mixer: type(mixer).__name__)
def test_mixtures_of_domains_are_refused(mixer: Any, corpora: Path) -> None:
    with pytest.raises(ValueError, match=f"one of DomainAdversarial and {type(mixer).__name__}"):
        train(corpora, [DomainAdversarial(unlabelled(corpora)), mixer])


def test_what_is_wrong_is_named_at_start(corpora: Path) -> None:
    rows = [json.loads(line) for line in (corpora / "unlabelled.jsonl").read_text().splitlines()]
    cases: list[tuple[DomainAdversarial, str]] = [
        (
            DomainAdversarial(unlabelled(corpora), layer="decoder"),
            "`layer` must name a submodule .* got 'decoder'",
        ),
        (DomainAdversarial(unlabelled(corpora), layer="encoder.blocks.0.norm"), "`layer` must"),
        (DomainAdversarial(), "`domain` must tell two domains apart, got one manifest"),
    ]
    del rows[2]["speaker"]
    (corpora / "unlabelled.jsonl").write_text("\n".join(map(json.dumps, rows)))
    cases.append((DomainAdversarial(unlabelled(corpora), domain="speaker"), r"unlabelled2\.wav has no `speaker`"))
    for callback, message in cases:
        with pytest.raises(ValueError, match=message):
            train(corpora, [callback])
    for options, name in (
        ({"domain": "room"}, "domain"),
        ({"gamma": 0.0}, "gamma"),
        ({"hidden_size": 0}, "hidden_size"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must"):
            DomainAdversarial(unlabelled(corpora), **options)
