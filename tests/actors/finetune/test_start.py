"""The start of a training worker: what is set of DeepSpeed that it has no public switch for."""

import os
import subprocess
import sys

from repository import PYTHONPATH

PROBE = """
import deepspeed.ops
from deepspeed.comm.torch import build_shm_op
from deepspeed.runtime.engine import DeepSpeedEngine
from actors.finetune.start import leave_out_shared_memory
from engine.errors import UserError

assert callable(DeepSpeedEngine.load_universal_checkpoint)
leave_out_shared_memory()
assert build_shm_op() is None
del deepspeed.ops.__compatible_ops__, deepspeed.ops.__getattr__
try:
    leave_out_shared_memory()
except UserError as error:
    print(error)
"""


def test_deepspeed_compiles_no_shared_memory_collectives_and_a_version_that_cannot_be_told_so_is_refused() -> None:
    env = os.environ | {"PYTHONPATH": PYTHONPATH, "DS_ACCELERATOR": "cpu"}
    found = subprocess.run([sys.executable, "-c", PROBE], env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "has no deepspeed.ops.__compatible_ops__" in found.stdout
    assert "built successfully" not in found.stdout
