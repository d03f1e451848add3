"""Float models and front ends as ONNX graphs, by torch.export: any encoder, one utterance at a time.

Weights of matrix products can be made int8 there (dynamic quantization): the way for transformers, whose activations
have no fixed domain. Recurrent layers become ONNX's own GRU and LSTM and stay in float: ONNX Runtime has no others.
"""

import copy
import logging
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

import speechkit
from speechkit.bundle import Bundle
from speechkit.encoders.receptive_field import encoder_stride
from speechkit.export.onnx_graph import OPSET, import_onnx, recognizer_metadata
from speechkit.features import MFB, MFCC, QuantizedFrontEnd, Waveform
from speechkit.masking import without_padding
from speechkit.runtime.onnx_session import session_arguments

INPUTS = ("features", "waveform")
_EXAMPLE_FRAMES = 64  # of logits, in the utterance that is traced
_CLOSE = 1e-3
_SCOPE = "pkg.torch.onnx.name_scopes"  # where the exporter writes the modules that a node is of


class OnnxModel(NamedTuple):
    """What was written."""

    num_bytes: int
    output_name: str
    largest_difference: float  # of its outputs under ONNX Runtime to torch's, on noise of another length
    largest_output: float


def export_model(
    bundle: Bundle, path: str | os.PathLike[str], *, input_name: str = "waveform", int8_weights: bool = False
) -> OnnxModel:
    """Writes a graph `features` float32 (1, frames, F) or `waveform` (1, samples) -> `logits` (1, frames', V).

    Where there is no head, the output is the encoder's: `representations` (1, frames', D). The graph is run once and
    held against torch.

    Args:
        bundle: float; left alone.
        path: of the file.
        input_name: "features": what the front end gives. "waveform": in [-1, 1], where the front end has a graph.
        int8_weights: weights of matrix products in 8 bits, a scale a channel, and activations in 8 bits with a range
            of their own in every product (onnxruntime's dynamic quantization). Convolutions stay in float.

    Raises:
        ValueError: another input, a part that torch cannot make a graph of, or a graph that computes something else.
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    if input_name not in INPUTS:
        raise ValueError(f"`input_name` must be one of {', '.join(INPUTS)}, got {input_name!r}.")
    onnx, onnxruntime = import_onnx(), _import_onnxruntime()
    model = _Utterance(bundle, with_front_end=input_name == "waveform").eval()
    output_name = "representations" if bundle.head is None else "logits"
    num_frames = _EXAMPLE_FRAMES * encoder_stride(bundle.encoder)
    generator = torch.Generator().manual_seed(0)
    num_features: Any = bundle.encoder.input_dim

    def noise(count: int) -> Tensor:
        if model.front_end is None:
            return torch.randn(1, count, num_features, generator=generator)
        size = round(count * model.front_end.hop_seconds * model.front_end.sample_rate_hz)
        return 0.1 * torch.randn(1, size, generator=generator)

    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "model.onnx"
        with without_padding():
            _export(model, noise(num_frames), written, input_name, output_name)
        if int8_weights:
            written = _with_int8_weights(written)
        content = onnx.load(written)
        x = noise(3 * num_frames // 2)
        expected = _torch_output(bundle, x, input_name)
        found = onnxruntime.InferenceSession(written, **session_arguments()).run(None, {input_name: x.numpy()})[0]
    difference, largest = float(np.abs(found - expected).max()), float(np.abs(expected).max())
    if not int8_weights and difference > _CLOSE * max(1.0, largest):
        raise ValueError(f"the model's graph gives other {output_name} than torch, up to {difference:.3g} apart.")
    metadata = {"speechkit": speechkit.__version__}
    if bundle.front_end is not None:
        metadata |= recognizer_metadata(bundle.front_end.sample_rate_hz, bundle.tokenizer)
    onnx.helper.set_model_props(content, metadata)
    onnx.save_model(content, os.fspath(path))
    return OnnxModel(Path(path).stat().st_size, output_name, difference, largest)


class _Utterance(nn.Module):
    """One utterance in, its logits out."""

    def __init__(self, bundle: Bundle, *, with_front_end: bool) -> None:
        super().__init__()
        self.front_end: Any = _front_end_of_whole_frames(bundle.front_end) if with_front_end else None
        self.head = bundle.head
        self.encoder = copy.deepcopy(bundle.encoder)
        for name, module in list(self.encoder.named_modules()):
            if isinstance(module, nn.GRU | nn.LSTM):
                self.encoder.set_submodule(name, _OnnxRecurrence(module))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.front_end is None else self.front_end(x)
        lengths = torch.full((1,), x.shape[1], dtype=torch.int64)
        output, lengths = self.encoder(x, lengths)
        return output if self.head is None else self.head(output, lengths)[0]


@torch.no_grad()
def _torch_output(bundle: Bundle, x: Tensor, input_name: str) -> np.ndarray:
    """What a recogniser computes, with its own front end and masks."""
    lengths = torch.tensor([x.shape[1]])
    for part in filter(None, (bundle.front_end if input_name == "waveform" else None, bundle.encoder, bundle.head)):
        x, lengths = part.eval()(x, lengths)
    output: np.ndarray = x.numpy()
    return output


class _OnnxRecurrence(nn.Module):
    """Layers of `nn.GRU` or `nn.LSTM` in one direction, as ONNX's operators, whose gates stand in another order."""

    def __init__(self, layers: nn.GRU | nn.LSTM) -> None:
        super().__init__()
        if layers.bidirectional or not layers.batch_first or not layers.bias:
            raise ValueError("recurrent layers must have one direction, batches first and biases to become ONNX.")
        self.kind, self.hidden_size, self.num_layers = type(layers).__name__, layers.hidden_size, layers.num_layers
        order = (1, 0, 2) if isinstance(layers, nn.GRU) else (0, 3, 1, 2)
        for number in range(layers.num_layers):
            gates = [
                torch.cat([parameter.detach().chunk(len(order))[place] for place in order])[None]
                for parameter in layers.all_weights[number]
            ]
            for name, value in zip("wrb", (gates[0], gates[1], torch.cat(gates[2:], dim=1)), strict=True):
                self.register_buffer(f"{name}{number}", value)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """(1, T, F) -> (1, T, hidden_size)."""
        x = x.transpose(0, 1)
        attributes: dict[str, int] = {"hidden_size": self.hidden_size}
        if self.kind == "GRU":
            attributes["linear_before_reset"] = 1
        for number in range(self.num_layers):
            x = torch.onnx.ops.symbolic(
                self.kind,
                (x, *(getattr(self, f"{name}{number}") for name in "wrb")),
                attrs=attributes,
                dtype=x.dtype,
                shape=(x.shape[0], 1, x.shape[1], self.hidden_size),
                version=OPSET,
            ).squeeze(1)
        return x.transpose(0, 1), None


class _WholeFrames(nn.Module):
    """A float front end on the frames that lie wholly inside: waveform (1, N) -> (1, T, F)."""

    def __init__(self, front_end: Any) -> None:
        super().__init__()
        self.front_end = front_end
        self.sample_rate_hz, self.hop_seconds = front_end.sample_rate_hz, front_end.hop_seconds

    def forward(self, waveform: Tensor) -> Tensor:
        features: Any = self.front_end.features
        if isinstance(features, Waveform):
            x = waveform[:, :, None]
        else:
            frames = waveform.unfold(1, features.frame_length, features.hop_length)
            x = features.finish_block(features.log_mel(features.spectral_frames(frames)), frames)
        lengths = torch.full((1,), x.shape[1], dtype=torch.int64)
        if not isinstance(features, Waveform) and features.dynamic_range is not None:
            x = features.limit_range(x, lengths)
            x = features.cepstra(x) if isinstance(features, MFCC) else x
        for step in (self.front_end.cmvn, self.front_end.deltas):
            if step is not None:
                x, lengths = step(x, lengths)
        return x


class _WholeCodes(nn.Module):
    """A quantized front end: waveform (B, N) -> codes or values (B, T, F) of the frames that lie wholly inside."""

    def __init__(self, front_end: QuantizedFrontEnd) -> None:
        super().__init__()
        self.sample_rate_hz, self.hop_seconds = front_end.sample_rate_hz, front_end.hop_seconds
        self.front_end = QuantizedFrontEnd(
            front_end.front_end,
            front_end.cmvn,
            front_end.qparams,
            arithmetic="convolution",
            output=front_end.output,
        )

    def forward(self, waveform: Tensor) -> Tensor:
        return self.front_end.of_edged(waveform)


def _front_end_of_whole_frames(front_end: Any) -> nn.Module:
    """Raises ValueError for one that has no graph."""
    if isinstance(front_end, QuantizedFrontEnd):
        _check_quantized(front_end)
        return _WholeCodes(front_end).eval()
    features = getattr(front_end, "features", front_end)
    if type(features) not in (MFB, MFCC, Waveform) or getattr(features, "edges", "snip") != "snip":
        raise ValueError(
            f"`input_name` must be 'features' for {type(features).__name__} with edges "
            f"{getattr(features, 'edges', 'snip')!r}: only MFB, MFCC with edges 'snip' and Waveform have graphs."
        )
    if getattr(features, "dither", 0.0):
        raise ValueError(f"`dither` must be 0 in an exported front end, got {features.dither}.")
    if getattr(front_end.cmvn, "is_fitted", True) is False:
        raise ValueError("`cmvn` must have statistics to be exported: call fit(), or load a trained model.")
    return _WholeFrames(front_end).eval()


def export_front_end_onnx(front_end: QuantizedFrontEnd, path: str | os.PathLike[str]) -> None:
    """Writes a graph `waveform` float32 (batch, samples) in [-1, 1] -> `codes` or `values` (batch, frames, F).

    Args:
        front_end: its arithmetic becomes that of a convolution; `edges` must be "snip", for the graph sees no lengths.
        path: of the file.

    Raises:
        ValueError: other edges.
        RuntimeError: the statistics of its CMVN were never set.
    """
    _check_quantized(front_end)
    front_end.multiply_add()  # refuses to go on without statistics
    example = torch.zeros(2, 4 * front_end.frame_length)
    _export(_WholeCodes(front_end).eval(), example, Path(path), "waveform", front_end.output, batch=True)


def _check_quantized(front_end: QuantizedFrontEnd) -> None:
    if front_end.edges != "snip":
        raise ValueError(f"`edges` must be 'snip' in an exported front end, got {front_end.edges!r}.")


def _export(
    model: nn.Module, example: Tensor, path: Path, input_name: str, output_name: str, *, batch: bool = False
) -> None:
    """One float32 input, whose second dimension is free, and the first where asked.

    Raises:
        ValueError: torch cannot make a graph of the model.
    """
    free: dict[int, Any] = {1: torch.export.Dim.AUTO}  # the least length is found
    if batch:
        free[0] = torch.export.Dim.DYNAMIC
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                model,
                (example,),
                os.fspath(path),
                dynamo=True,
                dynamic_shapes=(free,),
                input_names=[input_name],
                output_names=[output_name],
                opset_version=OPSET,
                verbose=False,
                external_data=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            cause = str(error.__cause__ or error).strip().splitlines()[0]
            raise ValueError(f"the model has no graph: {cause}") from error
    assert program is not None
    shape = program.model.graph.inputs[0].shape
    if shape is None or isinstance(shape[1], int):
        raise ValueError("the model has no graph for every length: torch found only that of an example.")


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch.onnx writes graphs with it)
    except ImportError as error:
        raise ImportError(f"ONNX models need {error.name}: pip install 'speechkit[export]'") from None
    return onnxruntime


def _with_int8_weights(path: Path) -> Path:
    """Quantizes the products of encoder and head; those of a front end span too many powers of ten."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = import_onnx().load(path).graph.node
    scopes = {node.name: {entry.key: entry.value for entry in node.metadata_props} for node in nodes}
    chosen = [name for name, found in scopes.items() if "'front_end'" not in found.get(_SCOPE, "")]
    out = path.with_suffix(".int8.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)  # it asks for a preparation that the exporter has done
        try:
            quantize_dynamic(
                path,
                out,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_quantize=chosen,
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
        finally:
            logging.disable(logging.NOTSET)
    return out
