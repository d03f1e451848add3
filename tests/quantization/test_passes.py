"""Graph passes: folding changes no output, inserting and stripping undo each other."""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import Tensor, nn

from speechkit.encoders import ConvGRUEncoder, SeparableConvEncoder, Wav2VecEncoder
from speechkit.encoders.convolution import MaskedConv1d
from speechkit.quantization.graph_drawing import draw_graphs, graph_table
from speechkit.quantization.passes import fold_conv_bn, insert_fake_quant, replace, strip, trace

TOLERANCES = {torch.float32: 1e-5, torch.float64: 1e-12}


def shake(module: nn.Module) -> nn.Module:
    """Batch norms with statistics and parameters that are no identity; in evaluation mode."""
    torch.manual_seed(1)
    for norm in module.modules():
        if hasattr(norm, "running_mean"):
            for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
                tensor.normal_()
            norm.running_var.uniform_(0.3, 3.0)
    return module.eval().requires_grad_(False)


def norms(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if hasattr(part, "running_mean")]


LAYERS: list[Callable[[], tuple[nn.Module, tuple[int, ...]]]] = [
    lambda: (nn.Sequential(nn.Conv1d(6, 8, 3, padding="same"), nn.BatchNorm1d(8), nn.ReLU()), (2, 6, 11)),
    lambda: (nn.Sequential(nn.Conv1d(6, 6, 5, groups=6, stride=2, bias=False), nn.BatchNorm1d(6)), (2, 6, 11)),
    lambda: (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(8)), (2, 3, 6, 7)),
    lambda: (nn.Sequential(nn.ConvTranspose1d(6, 4, 3, stride=2, groups=2), nn.BatchNorm1d(4)), (2, 6, 5)),
    lambda: (nn.Sequential(nn.ConvTranspose2d(6, 9, 3, groups=3, bias=False), nn.BatchNorm2d(9)), (2, 6, 5, 4)),
    lambda: (nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.ReLU()), (4, 7)),
]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("build", LAYERS)
def test_folding_changes_no_output(build: Callable[[], tuple[nn.Module, tuple[int, ...]]], dtype: torch.dtype) -> None:
    module, shape = build()
    module = shake(module).to(dtype)
    x = torch.randn(shape, dtype=dtype)
    folded = fold_conv_bn(trace(module))
    assert norms(folded) == []
    torch.testing.assert_close(folded(x), module(x), atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])


class RandomGraph(nn.Module):
    """Convolutions, norms, ReLUs and sums, drawn; some norms follow a tensor that is also used elsewhere."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.kinds = torch.randint(0, 4, (8,), generator=generator).tolist()
        self.convs = nn.ModuleList(nn.Conv1d(4, 4, 3, padding=1, groups=1 + 3 * (kind == 1)) for kind in self.kinds)
        self.norms = nn.ModuleList(nn.BatchNorm1d(4) for _ in self.kinds)

    def forward(self, x: Tensor) -> Tensor:
        for kind, conv, norm in zip(self.kinds, self.convs, self.norms, strict=True):
            y = conv(x)
            z = norm(y)
            x = torch.relu(z) if kind < 2 else 0.5 * (z + y) if kind == 2 else torch.relu(z + x)
        return x


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("seed", range(8))
def test_folding_of_random_graphs(seed: int, dtype: torch.dtype) -> None:
    module = shake(RandomGraph(seed)).to(dtype)
    folded = fold_conv_bn(trace(module))
    x = torch.randn(2, 4, 9, dtype=dtype)
    expected = module(x)
    torch.testing.assert_close(folded(x), expected, atol=TOLERANCES[dtype] * float(expected.abs().max()), rtol=0)
    assert len(norms(folded)) == module.kinds.count(2)  # what the convolution gives is used twice there


ENCODERS = [
    lambda: SeparableConvEncoder(input_dim=10, channels=12, kernel_sizes=(3, 5), output_dim=8),
    lambda: ConvGRUEncoder(input_dim=10, channels=12, hidden_size=8, norm="batch", bidirectional=True),
    lambda: ConvGRUEncoder(input_dim=10, channels=12, hidden_size=8),
    lambda: Wav2VecEncoder(input_dim=1),
]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("build", ENCODERS)
def test_folding_of_encoders(build: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    encoder = shake(build()).to(dtype)
    folded = fold_conv_bn(trace(encoder))
    assert norms(folded) == []
    x = torch.randn(2, 3000 if encoder.input_dim == 1 else 21, encoder.input_dim, dtype=dtype)
    lengths = torch.tensor([x.shape[1], x.shape[1] // 2])
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(folded(x, lengths)[0], encoder(x, lengths)[0], atol=tolerance, rtol=tolerance)


class ReadTwice(nn.Module):
    """A convolution that gives a pair, of which both its norm and a sum read the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = MaskedConv1d(4, 4, 3), nn.BatchNorm1d(4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        pair = self.conv(x, lengths)
        normed: Tensor = self.norm(input=pair[0])
        return normed + pair[0]


def test_what_is_read_elsewhere_too_is_not_folded() -> None:
    module = shake(ReadTwice())
    folded = fold_conv_bn(trace(module))
    x, lengths = torch.randn(2, 4, 9), torch.tensor([9, 5])
    torch.testing.assert_close(folded(x, lengths), module(x, lengths))
    assert len(norms(folded)) == 1


def test_a_norm_in_training_is_not_folded() -> None:
    module = shake(nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)))
    module[1].train()
    assert len(norms(fold_conv_bn(trace(module)))) == 1


def test_quantizers_of_like_names_and_of_a_module_called_twice() -> None:
    class Like(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.a_b = nn.Sequential(), nn.Identity()
            self.a.add_module("b", nn.Identity())

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.a_b(self.a.b(x) * 10.0)
            return self.a_b(-y)  # type: ignore[no-any-return]

    made = []

    def limit(name: str, part: nn.Module) -> nn.Module:
        made.append(name)
        return nn.Hardtanh(-1.0, 1.0) if name == "a.b" else nn.Hardtanh(-5.0, 5.0)

    graph = insert_fake_quant(trace(Like().eval()), limit)
    assert graph(torch.tensor([3.0])).item() == -5.0
    assert made == ["a.b", "a_b"]
    again = insert_fake_quant(graph, lambda name, part: nn.Hardtanh(-2.0, 2.0) if name == "a_b" else None)
    assert again(torch.tensor([3.0])).item() == -2.0
    assert len([part for part in again.modules() if isinstance(part, nn.Hardtanh)]) == 3


def test_folding_leaves_the_module_alone() -> None:
    module = shake(nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)))
    before = module[0].weight.clone()
    fold_conv_bn(trace(module))
    assert torch.equal(module[0].weight, before)


def test_strip_undoes_insert_fake_quant() -> None:
    module = nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU(), nn.Conv1d(3, 3, 1)).eval()
    graph = trace(module)

    def quantizer(name: str, part: nn.Module) -> nn.Module | None:
        return nn.Hardtanh(-0.1, 0.1) if isinstance(part, nn.Conv1d) else None

    quantized = insert_fake_quant(graph, quantizer)
    x = torch.randn(1, 3, 5)
    assert float(quantized(x).detach().abs().max()) == pytest.approx(0.1)
    assert torch.equal(strip(quantized, nn.Hardtanh)(x), module(x))


def test_replace_undoes_itself() -> None:
    graph = trace(nn.Sequential(nn.Conv1d(3, 3, 1), nn.ReLU()).eval())
    x = torch.randn(1, 3, 5)
    changed = replace(graph, lambda part: isinstance(part, nn.ReLU), lambda part: nn.SiLU())
    assert not torch.equal(changed(x), graph(x))
    back = replace(changed, lambda part: isinstance(part, nn.SiLU), lambda part: nn.ReLU())
    assert torch.equal(back(x), graph(x))


def test_a_graph_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_conv_bn(trace(nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3))))


def test_the_table_shows_what_folding_took_away() -> None:
    graph = trace(nn.Sequential(nn.Conv1d(3, 3, 1), nn.BatchNorm1d(3)).eval())
    assert "BatchNorm1d" in graph_table(graph)
    assert "BatchNorm1d" not in graph_table(fold_conv_bn(graph))


def test_a_drawing_has_a_box_for_each_node_and_an_arrow_for_each_edge(tmp_path: Path) -> None:
    before = trace(shake(RandomGraph(3)))
    after = fold_conv_bn(before)
    draw_graphs({"before": before, "after <folded>": after}, tmp_path / "graphs.svg")
    root = ElementTree.parse(tmp_path / "graphs.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in root.iter(f"{space}text")]
    assert texts.count("after <folded>") == 1
    nodes = [*before.graph.nodes, *after.graph.nodes]
    assert len(root.findall(f"{space}rect")) == 1 + len(nodes)
    assert len(root.findall(f"{space}path")) == sum(len(node.all_input_nodes) for node in nodes)
    assert sum("BatchNorm1d" in (text or "") for text in texts) == sum(node.name.startswith("norms_") for node in nodes)
