"""A front end as an ONNX graph of standard operators: convolution, product, matrix product, logarithm, rounding."""

import logging
import os
import warnings

import torch
from torch import Tensor, nn

from speechkit.features import QuantizedFrontEnd

OPSET = 20


class _WholeFrames(nn.Module):
    """Waveform (B, N) -> codes or values (B, T, F) of the frames that lie wholly inside."""

    def __init__(self, front_end: QuantizedFrontEnd) -> None:
        super().__init__()
        self.front_end = QuantizedFrontEnd(
            front_end.front_end,
            front_end.cmvn,
            front_end.qparams,
            arithmetic="convolution",
            output=front_end.output,
        )

    def forward(self, waveform: Tensor) -> Tensor:
        return self.front_end.of_edged(waveform)


def export_front_end_onnx(front_end: QuantizedFrontEnd, path: str | os.PathLike[str]) -> None:
    """Writes a graph `waveform` float32 (batch, samples) in [-1, 1] -> `codes` or `values` (batch, frames, F).

    Args:
        front_end: its arithmetic becomes that of a convolution; `edges` must be "snip", for the graph sees no lengths.
        path: of the file.

    Raises:
        ValueError: other edges.
        RuntimeError: the statistics of its CMVN were never set.
    """
    if front_end.edges != "snip":
        raise ValueError(f"`edges` must be 'snip' in an exported front end, got {front_end.edges!r}.")
    front_end.multiply_add()  # refuses to go on without statistics
    samples = torch.export.Dim("samples", min=front_end.frame_length)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _WholeFrames(front_end).eval(),
            (torch.zeros(2, 4 * front_end.frame_length),),
            os.fspath(path),
            dynamo=True,
            dynamic_shapes={"waveform": {0: torch.export.Dim("batch"), 1: samples}},
            input_names=["waveform"],
            output_names=[front_end.output],
            opset_version=OPSET,
            verbose=False,
            external_data=False,
        )
