"""Peak memory of a call, for the benchmarks: that of the process on a CPU, that of torch's allocator on a GPU."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def resident(line: str) -> int:
    """Bytes that Linux has in memory for this process, now ("VmRSS") or at most ("VmHWM")."""
    text = next(row for row in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line in row)
    return 1024 * int(text.split()[1])


def forget_peak() -> None:
    """From here on "VmHWM" is that of what follows."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_bytes(call: Callable[[], Any], device: str) -> int:
    """Bytes that a call takes at most, beside what is in memory before it."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)  # what was freed earlier goes back to Linux
    forget_peak()
    before = resident("VmRSS")
    call()
    return max(resident("VmHWM") - before, 0)
