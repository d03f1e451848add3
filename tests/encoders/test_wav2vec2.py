"""What is particular to Wav2Vec2Encoder; test_encoders.py holds it to what every encoder promises."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from speechkit.encoders import Wav2Vec2Encoder
from speechkit.encoders.transformer import SelfAttention, recompute_activation

SMALL: dict[str, Any] = {
    "channels": 8, "output_dim": 16, "num_layers": 3, "num_heads": 2, "feed_forward_dim": 24, "position_groups": 2,
    "position_kernel_size": 8, "dropout": 0.0, "layer_drop": 0.0,
}  # fmt: skip


def test_frames_are_those_of_the_paper() -> None:
    """20 ms apart, each of 25 ms: one second of 16 kHz gives 49 (Baevski et al. 2020, section 4.2)."""
    encoder = Wav2Vec2Encoder(**SMALL)
    assert encoder.output_lengths(torch.tensor([0, 399, 400, 719, 720, 16000])).tolist() == [0, 0, 1, 1, 2, 49]


def test_the_mask_hides_the_latents() -> None:
    encoder = Wav2Vec2Encoder(**SMALL).eval()
    latents, mask = torch.randn(2, 30, 8), torch.zeros(2, 30, dtype=torch.bool)
    mask[:, 5:9] = True
    lengths = torch.tensor([30, 20])
    before, _ = encoder.context(latents, lengths, mask)
    latents[mask] = 0.0
    after, _ = encoder.context(latents, lengths, mask)
    assert torch.equal(before, after)
    assert not torch.allclose(before, encoder.context(latents, lengths)[0])


@pytest.mark.parametrize(
    ("exit_key", "options"), [("none", {}), ("zero", {"add_zero_attn": True}), ("learned", {"add_bias_kv": True})]
)
def test_attention_is_torchs(exit_key: str, options: dict[str, bool]) -> None:
    ours = SelfAttention(dim=16, num_heads=4, dropout=0.0, exit_key=exit_key)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True, **options)
    theirs.in_proj_weight.data.copy_(ours.input_projection.weight)
    theirs.in_proj_bias.data.copy_(ours.input_projection.bias)
    theirs.out_proj.load_state_dict(ours.output_projection.state_dict())
    if exit_key == "learned":
        theirs.bias_k.data.copy_(ours.exit[0].flatten())
        theirs.bias_v.data.copy_(ours.exit[1].flatten())
    x, lengths = torch.randn(2, 9, 16), torch.tensor([9, 6])
    outside = torch.arange(9) >= lengths[:, None]
    expected, _ = theirs(x, x, x, key_padding_mask=outside)
    got, _ = ours(x, lengths)
    torch.testing.assert_close(got[~outside], expected[~outside], atol=1e-5, rtol=1e-4)


def test_a_dropped_layer_changes_nothing_and_keeps_its_parameters_in_the_graph() -> None:
    encoder = Wav2Vec2Encoder(**{**SMALL, "layer_drop": 0.999999}).train()
    waveform, lengths = torch.randn(1, 4000, 1), torch.tensor([4000])
    output, _ = encoder(waveform, lengths)
    output.square().sum().backward()
    assert all(parameter.grad.eq(0).all() for parameter in encoder.layers.parameters())
    without = Wav2Vec2Encoder(**{**SMALL, "num_layers": 0}).eval()
    without.load_state_dict({name: v for name, v in encoder.state_dict().items() if not name.startswith("layers")})
    torch.testing.assert_close(output, without(waveform, lengths)[0])


def test_recomputing_changes_no_number_and_keeps_less() -> None:
    linear = nn.Linear(32, 4)
    x = torch.randn(64, 32)
    kept: list[list[int]] = []
    gradients = []
    for run in (lambda f, x: f(x), recompute_activation):
        leaf = x.clone().requires_grad_()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            y = run(lambda x: linear(F.gelu(x)), leaf * 1.0)
        kept.append(sizes)
        gradients.append(torch.autograd.grad(y.square().sum(), [leaf, linear.weight]))
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)
    assert sum(kept[1]) < sum(kept[0])


def test_half_precision() -> None:
    encoder = Wav2Vec2Encoder(**SMALL).train()
    waveform, lengths = torch.randn(2, 8000, 1), torch.tensor([8000, 5000])
    single, _ = encoder(waveform, lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half, _ = encoder(waveform, lengths)
    half.float().square().sum().backward()
    torch.testing.assert_close(half.float(), single, atol=0.1, rtol=0.1)
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"kernel_sizes": (3,)}, "`kernel_sizes` and `strides` must be as many"),
        ({"conv_norm": "batch"}, "`conv_norm` must be one of group, layer, got 'batch'"),
        ({"padded": True}, "`padded` needs `conv_norm` layer"),
        ({"num_heads": 3}, "`num_heads` must divide the model dimension 16, got 3"),
        ({"position_groups": 3}, "`position_groups` must divide `output_dim` 16, got 3"),
        ({"layer_drop": 1.0}, "`layer_drop` must lie in"),
        ({"exit_key": "door"}, "`exit_key` must be one of none, zero, learned, got 'door'"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        Wav2Vec2Encoder(**{**SMALL, **options})
