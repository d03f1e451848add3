"""A trained front end as a folder for firmware: from its modules to the integers that `front_end_c` writes."""

from pathlib import Path

import numpy as np

from speechkit.export.front_end_c import FirmwareExport, FirmwareFrontEnd, write_front_end
from speechkit.features import QuantizedFrontEnd


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


def integer_front_end(front_end: QuantizedFrontEnd) -> FirmwareFrontEnd:
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
    return FirmwareFrontEnd(tables, front_end.sample_rate_hz, qparams.scale, qparams.zero_point)
