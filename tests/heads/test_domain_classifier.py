"""The domain classifier against what it is made of, and its gradient turned round."""

import pytest
import torch
import torch.nn.functional as F

from speechkit.heads import DomainClassifier, domain_losses, reverse_gradient


def test_gradient_is_reversed_and_scaled() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    y = reverse_gradient(x, 0.3)
    assert torch.equal(x, y)
    y.square().sum().backward()
    torch.testing.assert_close(x.grad, -0.3 * 2 * x)


@pytest.mark.parametrize("framewise", [False, True])
@pytest.mark.parametrize("vocab_size", [0, 6])
def test_padding_is_not_seen(framewise: bool, vocab_size: int) -> None:
    torch.manual_seed(0)
    classifier = DomainClassifier(input_dim=5, num_domains=3, hidden_size=7, vocab_size=vocab_size, framewise=framewise)
    x, posteriors = torch.randn(2, 8, 5), torch.randn(2, 8, 6).softmax(dim=-1)
    lengths, domains = torch.tensor([8, 3]), torch.tensor([2, 0])
    both = domain_losses(classifier(x, lengths, posteriors), lengths, domains)
    alone = domain_losses(classifier(x[1:, :3], lengths[1:], posteriors[1:, :3]), lengths[1:], domains[1:])
    torch.testing.assert_close(both[1:], alone)
    nothing = torch.zeros(2)
    assert domain_losses(classifier(x, nothing, posteriors), nothing, domains).tolist() == [0.0, 0.0]
    one_frame, lengths = x[:, :1], torch.tensor([1, 0])
    assert domain_losses(classifier(one_frame, lengths, posteriors[:, :1]), lengths, domains)[1] == 0.0


def test_mean_and_frames_by_hand() -> None:
    torch.manual_seed(0)
    x, lengths, domains = torch.randn(1, 4, 5), torch.tensor([3]), torch.tensor([1])
    classifier = DomainClassifier(input_dim=5, num_domains=2, hidden_size=7)
    of_mean = F.cross_entropy(classifier.layers(x[:, :3].mean(dim=1)), domains)
    torch.testing.assert_close(domain_losses(classifier(x, lengths, x), lengths, domains)[0], of_mean)
    classifier.framewise = True
    of_frames = F.cross_entropy(classifier.layers(x[0, :3]), domains.expand(3))
    torch.testing.assert_close(domain_losses(classifier(x, lengths, x), lengths, domains)[0], of_frames)


def test_conditional_map_is_multilinear_and_the_same_for_all() -> None:
    torch.manual_seed(0)
    classifier, other = (DomainClassifier(input_dim=5, num_domains=2, hidden_size=64, vocab_size=3) for _ in range(2))
    assert torch.equal(classifier.of_frames, other.of_frames)
    assert classifier.state_dict().keys() == {f"layers.{place}.{name}" for place in "02" for name in ("weight", "bias")}
    torch.manual_seed(1)
    x, p, y, q = torch.randn(5), torch.rand(3), torch.randn(5), torch.rand(3)
    classifier.of_frames, classifier.of_posteriors = torch.randn(5, 40000), torch.randn(3, 40000)
    classifier.layers = torch.nn.Identity()
    first, second = (classifier(a[None, None], torch.tensor([1]), b[None, None])[0, 0] for a, b in ((x, p), (y, q)))
    assert float(first @ second) == pytest.approx(float(x @ y) * float(p @ q), abs=0.3)  # as of the outer products
