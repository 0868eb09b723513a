"""Whether a device computes in bf16 itself, or in fp32 with conversions, which takes longer than fp32 alone."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""What Linux calls the instructions that multiply in bf16: of x86, and of ARM."""

CPUINFO = Path("/proc/cpuinfo")


def has_bf16(device: str) -> bool:
    """Tell whether ``device`` has units for products in bf16; a CPU of which no flags are known has none."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(FLAGS & cpu_flags())


def cpu_flags() -> set[str]:
    """Return the flags of the first processor that Linux states, none on other systems."""
    with suppress(OSError):
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                return set(value.lower().split())
    return set()
