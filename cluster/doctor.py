"""What this machine can run: Python, packages, Ray, GPUs, attention kernels, DeepSpeed's compiler, storage, the zoo."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cluster.session.session import missing_for_metrics, num_cores
from cluster.session.temporary import ray_folder
from engine.errors import PlacementError
from engine.wording import size

# Without these there is no run; the others are extras.
REQUIRED = ("torch", "ray", "diffusers", "transformers", "deepspeed", "webdataset", "pyarrow", "datasets")
ZOO = ("captioner", "perturber", "editor", "verifier", "patient")
LOW_DISK_BYTES = 5 * 10**9
LOW_SHM_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding: `failed` if no run can work, `missing` if something optional is absent."""

    name: str
    state: Literal["ok", "missing", "failed"]
    detail: str
    remedy: str = ""


def examine() -> list[Check]:
    """Return the findings of all checks; starts no Ray and asks no network."""
    checks = (_packages, _machine, _gpus, _attention, _deepspeed, _storage, _zoo)
    return [finding for check in checks for finding in check()]


def _finding(
    name: str, found: object, detail: str, absent: str = "", remedy: str = "", required: bool = False
) -> Check:
    """Return a check that is ok where something was `found`, else one with the text `absent` and a remedy."""
    if found:
        return Check(name=name, state="ok", detail=detail)
    return Check(name=name, state="failed" if required else "missing", detail=absent or detail, remedy=remedy)


def _packages() -> Iterator[Check]:
    yield _finding("python", True, f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    for package in REQUIRED:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        yield _finding(package, version, version, "not installed", "pip install -c constraints.txt -e .", required=True)


def _machine() -> Iterator[Check]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    yield _finding("cores", True, f"{num_cores()}; memory {size(memory)}")
    address = os.environ.get("RAY_ADDRESS")
    join = f"RAY_ADDRESS is {address}: join it with --address auto"
    yield _finding("ray cluster", True, join if address else "a local one is started for each run")
    yield _ray_folder()
    missing = missing_for_metrics()
    remedy = 'for --metrics-port: pip install "counterforge[metrics]"'
    yield _finding("metrics", not missing, "--metrics-port serves them to Prometheus", missing or "", remedy)
    shm = Path("/dev/shm")  # nosec B108 # looked at, not written
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        remedy = "Ray will use the disk, slowly: give a container more with --shm-size=4g"
        yield _finding("shared memory", free >= LOW_SHM_BYTES, f"{size(free)} free in {shm}", remedy=remedy)


def _ray_folder() -> Check:
    try:
        folder = ray_folder()
    except PlacementError as error:
        detail, _, remedy = str(error).rpartition(": ")
        return _finding("ray folder", False, detail, remedy=remedy, required=True)
    remedy = "a shorter TMPDIR, or RAY_TMPDIR=/tmp, keeps them together"
    return _finding("ray folder", folder.note is None, folder.path, folder.note or "", remedy)


def _gpus() -> Iterator[Check]:
    import torch

    count = torch.cuda.device_count()
    for index in range(count):
        device = torch.cuda.get_device_properties(index)
        yield _finding(f"gpu {index}", True, f"{device.name}, {size(device.total_memory)}")
    if not count:
        remedy = "with a GPU in this machine, install a CUDA build of torch: https://pytorch.org/get-started/locally"
        if torch.version.cuda:
            remedy = (
                "torch was built for CUDA but sees no GPU: is the driver there (nvidia-smi), is CUDA_VISIBLE_DEVICES "
                "empty?"
            )
        yield _finding("gpu", False, "none; everything runs on the CPU, which is enough for the wardrobe", "", remedy)


def _attention() -> Iterator[Check]:
    """Run each kernel on a tiny tensor: some can be imported and do not run here."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
    query = torch.ones(1, 16, 16, 64, device=device, dtype=dtype)

    def sdpa(*backends: SDPBackend) -> None:
        with sdpa_kernel(list(backends)):
            torch.nn.functional.scaled_dot_product_attention(query, query, query)

    def xformers() -> None:
        from xformers.ops import memory_efficient_attention

        memory_efficient_attention(query, query, query)

    fallback = "use attention: sdpa"
    yield _try("sdpa", lambda: sdpa(SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH), device, fallback)
    if device == "cpu":
        yield _finding("attention: flash", False, "needs a GPU")
        yield _finding("attention: xformers", False, "needs a GPU and the extra `counterforge[gpu]`")
        return
    yield _try("flash", lambda: sdpa(SDPBackend.FLASH_ATTENTION), device, fallback)
    yield _try("xformers", xformers, device, "pip install 'counterforge[gpu]' with the torch that it was built for")


def _try(kernel: str, run: Callable[[], None], device: str, remedy: str) -> Check:
    name = f"attention: {kernel}"
    try:
        run()
    except ImportError as error:
        return _finding(name, False, f"not installed: {error}", remedy=remedy)
    except (RuntimeError, NotImplementedError) as error:
        return _finding(name, False, f"does not run here: {str(error).splitlines()[0]}", remedy=remedy)
    return _finding(name, True, f"runs on {device}")


def _deepspeed() -> Iterator[Check]:
    compiler = shutil.which("g++") or shutil.which("c++")
    absent = "not found; DeepSpeed compiles its CPU communication when it is first used"
    remedy = "apt-get install g++ (Debian, Ubuntu) or dnf install gcc-c++"
    yield _finding("deepspeed: g++", compiler, compiler or "", absent, remedy, required=True)
    # pip puts it beside Python, which is not on PATH where a venv is used without activating it.
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    absent = "not found; DeepSpeed builds with it"
    yield _finding("deepspeed: ninja", ninja, ninja or "", absent, "pip install ninja", required=True)
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    built = ", ".join(sorted({path.parent.name for path in cache.glob("**/*.so")}))
    first = f"nothing in {cache}: the first fine-tuning takes a minute more"
    yield _finding("deepspeed: compiled", True, f"{built} in {cache}" if built else first)


def _storage() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    remedy = "write elsewhere with --out; `counterforge plan` says how much a run needs"
    yield _finding("disk", free >= LOW_DISK_BYTES, f"{size(free)} free in {Path.cwd()}", remedy=remedy)
    try:
        from pyarrow.fs import GcsFileSystem, S3FileSystem

        names = f"s3:// ({S3FileSystem.__name__}) and gs:// ({GcsFileSystem.__name__}) can be used with --out"
        yield _finding("object stores", True, names)
    except ImportError as error:
        yield _finding("object stores", False, str(error), remedy="install pyarrow from PyPI or conda-forge")


def _zoo() -> Iterator[Check]:
    from actors.zoo import MODELS_FOLDER

    for name in ZOO:
        folder = MODELS_FOLDER / name
        weights = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        remedy = "install from a checkout, or train it: make zoo"
        yield _finding(f"zoo/{name}", weights, size(weights), f"no weights in {folder}", remedy)
