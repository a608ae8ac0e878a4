"""The processor of this machine, by what the bits of its results depend on."""

import platform
from pathlib import Path

# Instruction sets for which torch, MKL and oneDNN have kernels of their own; each may add in another order.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def processor() -> str:
    """Return the model of this machine's processor and its instruction sets: "AMD EPYC (avx2, avx512f)".

    It names a kind of machine: with one name and the same library versions results are the same to the bit, with two
    names they may differ in the last bits.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    # "Features" on ARM, which names no model either.
    flags = set((found.get("flags") or found.get("Features", "")).split())
    sets = ", ".join(name for name in INSTRUCTION_SETS if name in flags)
    return f"{found.get('model name', platform.machine())} ({sets or 'no vector instructions'})"
