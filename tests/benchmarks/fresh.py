"""What a function takes in a process of its own: seconds, and the largest memory that it ever held."""

import importlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEMORY_LINE = "VmHWM:"


@dataclass(frozen=True, kw_only=True)
class Taken:
    """Hold seconds by the clock and of the cores, peak memory with all that was imported, and what was returned."""

    seconds: float
    core_s: float
    peak_mib: float
    result: Any


def measure(target: str, *arguments: object) -> Taken:
    """Call `module:function` of this folder in a fresh process, with arguments that JSON can hold."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.fresh", target, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Taken(**json.loads(process.stdout.splitlines()[-1]))


def main() -> None:
    """Be the fresh process."""
    target, arguments = sys.argv[1:]
    module, _, name = target.partition(":")
    function = getattr(importlib.import_module(module), name)
    start, core_start = time.perf_counter(), time.process_time()
    result = function(*json.loads(arguments))
    taken = {"seconds": time.perf_counter() - start, "core_s": time.process_time() - core_start}
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith(MEMORY_LINE))
    print(json.dumps({**taken, "peak_mib": int(peak) / 1024, "result": result}))


if __name__ == "__main__":
    main()
