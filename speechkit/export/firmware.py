"""A trained front end as a folder for firmware: from its modules to the integers that `front_end_c` writes."""

from pathlib import Path

import numpy as np
from torch import nn

from speechkit.export.front_end_c import FirmwareExport, IntegerFrontEnd, write_front_end
from speechkit.features import MFB, FrontEnd, GlobalCMVN, QuantizedFrontEnd


def as_quantized_front_end(front_end: nn.Module) -> QuantizedFrontEnd:
    """A front end that can be exported: itself, or MFB or MFCC with `GlobalCMVN` or none in the domain S = 1/32, Z = 0.

    Raises:
        ValueError: another front end; the line says what to train with.
    """
    if isinstance(front_end, QuantizedFrontEnd):
        return front_end
    advice = "; train with QuantizedFrontEnd, or with FrontEnd of MFB or MFCC with GlobalCMVN"
    if not isinstance(front_end, FrontEnd):
        raise ValueError(f"`front_end` must be quantized or quantizable, got {type(front_end).__name__}{advice}.")
    if not isinstance(front_end.features, MFB):
        raise ValueError(f"`features` must be an MFB or MFCC, got {type(front_end.features).__name__}{advice}.")
    if not isinstance(front_end.cmvn, GlobalCMVN | None):
        raise ValueError(f"`cmvn` must be GlobalCMVN or none, got {type(front_end.cmvn).__name__}{advice}.")
    if front_end.deltas is not None:
        raise ValueError(f"`deltas` must be none, got {type(front_end.deltas).__name__}{advice}.")
    return QuantizedFrontEnd(front_end.features, front_end.cmvn)


def export_front_end(
    front_end: QuantizedFrontEnd,
    out_dir: str | Path,
    samples: np.ndarray | None = None,
    *,
    overwrite: bool = False,
) -> FirmwareExport:
    """Writes C99 source, tables and reference vectors of a front end; the folder's README.md says how to use them.

    Args:
        front_end: of any `arithmetic`; "snip" edges only.
        out_dir: a folder that is made, or is empty.
        samples: (N,) at the front end's rate, int16 or float in [-1, 1]; `synthetic_signal` if not given. Seconds, not
            hours: each makes about 0.7 MB of vectors.
        overwrite: write into a folder that holds something; files of other names stay.

    Raises:
        ValueError: a front end without an integer form or beyond 64 bits, samples without a frame, or a folder in use.
    """
    return write_front_end(integer_front_end(front_end), out_dir, samples, overwrite=overwrite)


def integer_front_end(front_end: QuantizedFrontEnd) -> IntegerFrontEnd:
    """What the C source is made from.

    Raises:
        ValueError: a front end without an integer form or beyond 64 bits.
    """
    if front_end.edges != "snip":
        raise ValueError(f"`edges` must be 'snip' for firmware, which sees whole frames only, got {front_end.edges!r}.")
    if front_end.cmvn is not None and not front_end.cmvn.is_fitted:
        raise ValueError("`cmvn` must have statistics, got a GlobalCMVN that was never fitted.")
    qparams = front_end.qparams
    tables = front_end.integer().tables
    assert isinstance(qparams.scale, float)
    assert isinstance(qparams.zero_point, int)
    return IntegerFrontEnd(tables, front_end.sample_rate_hz, qparams.scale, qparams.zero_point)
