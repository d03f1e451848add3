"""The integer network's description and its numpy executor."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from speechkit.runtime import Domain, IntegerLayer, IntegerNetwork, run_layers, run_network
from speechkit.runtime.network import network_digest, network_from_files, network_to_files, pack_arrays, unpack_arrays


def layer(name: str, inputs: tuple[int, ...], shape: tuple[int, int, int], **options: Any) -> IntegerLayer:
    rng = np.random.default_rng(len(name))
    return IntegerLayer(
        name=name,
        inputs=inputs,
        weight=rng.integers(-127, 128, shape, dtype=np.int8),
        bias=rng.integers(-2000, 2000, shape[0], dtype=np.int32),
        multiplier=rng.uniform(0.0005, 0.004, shape[0]).astype(np.float32),
        weight_scale=rng.uniform(0.001, 0.01, shape[0]).astype(np.float32),
        **{"domain": Domain(0.05, 0), **options},
    )


@pytest.fixture
def network() -> IntegerNetwork:
    layers = (
        layer("stem", (0,), (6, 1, 5), groups=6, stride=2, padding=(2, 2), domain=Domain(0.04, 3)),
        layer("wide", (1,), (8, 6, 1), relu=True, domain=Domain(0.02, -128)),
        layer("joined", (2, 1), (4, 14, 1)),
    )
    return IntegerNetwork(6, Domain(1 / 32, -5), layers)


@pytest.mark.parametrize("frames", [0, 1, 2, 13])
def test_it_computes_its_definition(network: IntegerNetwork, frames: int) -> None:
    codes = np.random.default_rng(0).integers(-128, 128, (frames, 6), dtype=np.int8)
    tensors = run_layers(network, codes)
    stem, _, joined = network.layers
    assert [len(tensor) for tensor in tensors] == [frames] + 3 * [-(-frames // 2)]
    for t in range(-(-frames // 2)):
        for c in range(6):
            places = [(k, 2 * t + k - 2) for k in range(5) if 0 <= 2 * t + k - 2 < frames]
            total = int(stem.bias[c]) + sum(int(stem.weight[c, 0, k]) * (int(codes[u, c]) + 5) for k, u in places)
            expected = np.rint(np.float32(total) * stem.multiplier[c]) + 3
            assert tensors[1][t, c] == np.clip(expected, -128, 127)
        steps = np.concatenate([tensors[2][t].astype(int) + 128, tensors[1][t].astype(int) - 3])
        total = joined.bias + joined.weight[:, :, 0].astype(int) @ steps
        assert np.array_equal(tensors[3][t], np.clip(np.rint(total.astype(np.float32) * joined.multiplier), -128, 127))


def test_relu_cuts_at_zero(network: IntegerNetwork) -> None:
    relu = replace(network.layers[1], domain=Domain(0.02, -20))
    changed = IntegerNetwork(6, network.domain, (network.layers[0], relu))
    codes = np.random.default_rng(0).integers(-128, 128, (9, 6), dtype=np.int8)
    assert run_network(changed, codes).min() == 0.0


def test_description_and_arrays_make_an_equal_network(network: IntegerNetwork) -> None:
    description, arrays = network_to_files(network)
    again = network_from_files(json.loads(json.dumps(description)), unpack_arrays(pack_arrays(arrays)))
    assert network_digest(again) == network_digest(network)


def test_the_context_is_what_moves_the_output(network: IntegerNetwork) -> None:
    codes = np.zeros((41, 6), np.int8)
    before = run_layers(network, codes)[-1]
    moved = []
    for frame in range(41):
        codes[frame] = 90
        moved += [frame] if (run_layers(network, codes)[-1][10] != before[10]).any() else []
        codes[frame] = 0
    assert (20 - moved[0], moved[-1] - 20) == network.context == (2, 2)


def test_costs(network: IntegerNetwork) -> None:
    assert network.stride == 2
    assert network.multiply_adds() == 6 * 5 + 8 * 6 + 4 * 14


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"inputs": (4,)}, "layer 'wide': `inputs` must name tensors made before it"),
        ({"groups": 3}, "layer 'wide': `weight` must read 6 channels, got 18"),
        ({"bias": np.zeros(8, np.int64)}, "layer 'wide': `bias` must be int32"),
        ({"bias": np.full(8, 2**31 - 1, np.int32)}, "layer 'wide': sums must fit in 32 bits"),
        ({"weight": np.zeros((8, 6, 1), np.int16)}, "layer 'wide': `weight` must be int8 or float32"),
        ({"multiplier": np.zeros(3, np.float32)}, "layer 'wide': `multiplier`"),
        ({"padding": (-1, 0)}, "layer 'wide': `padding` must not be negative"),
    ],
)
def test_layers_that_do_not_fit(network: IntegerNetwork, changes: dict[str, Any], reason: str) -> None:
    layers = (network.layers[0], replace(network.layers[1], **changes))
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        IntegerNetwork(6, network.domain, layers)


def test_wrong_codes(network: IntegerNetwork) -> None:
    with pytest.raises(ValueError, match=r"`codes` must be int8 \(frames, 6\), got int8 \(3, 5\)"):
        run_layers(network, np.zeros((3, 5), np.int8))


def test_another_format_and_damage(network: IntegerNetwork) -> None:
    description, arrays = network_to_files(network)
    with pytest.raises(ValueError, match="format must be 1, got 9"):
        network_from_files({**description, "format": 9}, arrays)
    with pytest.raises(ValueError, match=r"damaged or incomplete \(KeyError: 'wide.bias'\)"):
        network_from_files(description, {name: array for name, array in arrays.items() if name != "wide.bias"})
    with pytest.raises(ValueError, match=r"qparams\.npz is damaged"):
        unpack_arrays(b"nothing")
    content = pack_arrays(arrays)
    for damaged in (content[:-30], content[:40] + bytes(20) + content[60:]):
        with pytest.raises(ValueError, match=r"qparams\.npz is damaged"):
            unpack_arrays(damaged)
