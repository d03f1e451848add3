"""The acoustic model in integers: front end and network, from segments of audio to logits, without torch."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from speechkit.audio import AudioSegment
from speechkit.runtime import IntegerNetwork, run_network
from speechkit.runtime.front_end import IntegerFrontEnd, IntegerTables
from speechkit.runtime.network import network_digest
from speechkit.runtime.onnx_session import session_arguments

ENGINES = ("onnxruntime", "reference")


class IntegerModel:
    """Integer front end and integer network; each segment by itself, so there is no padding.

    Args:
        tables: of the front end.
        sample_rate_hz: of its waveform.
        network: the layers.
        onnx: the network as an ONNX file, for the engine "onnxruntime".
        engine: "onnxruntime" or "reference" (numpy; slower, and of the same logits).

    Raises:
        ValueError: an unknown engine, or an ONNX file that is missing, damaged, or of another network.
        ImportError: onnxruntime is not installed.
    """

    def __init__(
        self,
        *,
        tables: IntegerTables,
        sample_rate_hz: int,
        network: IntegerNetwork,
        onnx: bytes = b"",
        engine: str = "onnxruntime",
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}.")
        if len(tables.offset) != network.num_features:
            raise ValueError(f"`network` must read {len(tables.offset)} features, got {network.num_features}.")
        self.tables, self.network, self.sample_rate_hz = tables, network, sample_rate_hz
        self.front_end = IntegerFrontEnd(tables)
        self.step_seconds = network.stride * tables.hop_length / sample_rate_hz
        self.first_seconds = tables.frame_length / 2 / sample_rate_hz
        self._session = open_session(onnx, network) if engine == "onnxruntime" else None

    def describe_latency(self) -> str:
        """What a frame of the network sees, in words."""
        before, ahead = self.network.context
        hop_ms = 1000 * self.tables.hop_length / self.sample_rate_hz
        return (
            f"a frame every {self.network.stride * hop_ms:.4g} ms (stride {self.network.stride}), "
            f"sees {before + 1 + ahead} input frames, {ahead} ({ahead * hop_ms:.4g} ms) ahead"
        )

    def segment_logits(self, segments: Sequence[AudioSegment]) -> list[np.ndarray]:
        """Logits float32 (T, V) of each."""
        return [self.logits(segment.samples) for segment in segments]

    def logits(self, waveform: np.ndarray) -> np.ndarray:
        """waveform (N,) in [-1, 1] -> logits float32 (T, V)."""
        codes = self.front_end(waveform)
        if not len(codes):
            return np.zeros((0, self.network.num_outputs), np.float32)
        if self._session is None:
            return run_network(self.network, codes)
        (logits,) = self._session.run(["logits"], {"codes": as_uint8(codes)[None]})
        result: np.ndarray = logits[0]
        return result


def as_uint8(codes: np.ndarray) -> np.ndarray:
    """int8 codes -> uint8, 128 higher: what the ONNX graph reads."""
    return codes.view(np.uint8) ^ np.uint8(0x80)


def open_session(onnx: bytes, network: IntegerNetwork) -> Any:
    """An ONNX Runtime session of one thread, for the network that the file was made from.

    Raises:
        ValueError: no file, one that ONNX Runtime cannot read, or one that was made from another network.
        ImportError: onnxruntime is not installed.
    """
    if not onnx:
        raise ValueError("the bundle lacks model.int8.onnx: make it anew with speechkit quantize")
    try:
        import onnxruntime
    except ImportError:
        raise ImportError("int8 bundles need onnxruntime: pip install 'speechkit[runtime]'") from None
    try:
        session = onnxruntime.InferenceSession(onnx, **session_arguments())
    except Exception as error:  # its errors have no class of their own
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"model.int8.onnx cannot be read by onnxruntime {onnxruntime.__version__}: {reason}") from None
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata.get("network") != network_digest(network):
        raise ValueError(
            f"model.int8.onnx (speechkit {metadata.get('speechkit', 'unknown')}) was made from another network than "
            "qparams.json: make the bundle anew with speechkit quantize"
        )
    return session
