"""What this machine can run: Python, packages, Ray, GPUs, attention kernels, DeepSpeed's compiler, storage, the zoo."""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.session.session import missing_for_metrics, num_cores
from engine.wording import size

if TYPE_CHECKING:
    import torch

State = Literal["ok", "missing", "failed"]
# Without these there is no run; the others are extras.
REQUIRED = ("torch", "ray", "diffusers", "transformers", "deepspeed", "webdataset", "pyarrow", "datasets")
ZOO = ("captioner", "perturber", "editor", "verifier", "patient")
LOW_DISK_BYTES = 5 * 10**9
LOW_SHM_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class Check:
    """Hold one finding: failed where no run can work, missing where something optional is not there."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at everything and return what was found; starts no Ray and asks no network."""
    return [*_python(), *_machine(), *_gpus(), *_attention(), *_deepspeed(), *_storage(), *_zoo()]


def _python() -> Iterator[Check]:
    version = platform.python_version()
    yield Check(name="python", state="ok", detail=f"{version}, {platform.system()} {platform.machine()}")
    for package in REQUIRED:
        try:
            yield Check(name=package, state="ok", detail=importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Check(
                name=package, state="failed", detail="not installed", remedy="pip install -c constraints.txt -e ."
            )


def _machine() -> Iterator[Check]:
    yield Check(name="cores", state="ok", detail=f"{num_cores()}; memory {size(_memory_bytes())}")
    address = os.environ.get("RAY_ADDRESS")
    where = (
        f"RAY_ADDRESS is {address}: join it with --address auto" if address else "a local one is started for each run"
    )
    yield Check(name="ray cluster", state="ok", detail=where)
    missing = missing_for_metrics()
    yield Check(
        name="metrics",
        state="missing" if missing else "ok",
        detail=missing or "--metrics-port serves them to Prometheus",
        remedy='for --metrics-port: pip install "counterforge[metrics]"' if missing else "",
    )
    shm = Path("/dev/shm")  # nosec B108 # looked at, not written
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        low = free < LOW_SHM_BYTES
        yield Check(
            name="shared memory",
            state="missing" if low else "ok",
            detail=f"{size(free)} free in {shm}",
            remedy="Ray will use the disk, slowly: give a container more with --shm-size=4g" if low else "",
        )


def _gpus() -> Iterator[Check]:
    import torch

    count = torch.cuda.device_count()
    for index in range(count):
        device = torch.cuda.get_device_properties(index)
        yield Check(name=f"gpu {index}", state="ok", detail=f"{device.name}, {size(device.total_memory)}")
    if not count:
        build = torch.version.cuda
        detail = "none; everything runs on the CPU, which is enough for the wardrobe"
        remedy = (
            "torch was built for CUDA but sees no GPU: is the driver there (nvidia-smi), is CUDA_VISIBLE_DEVICES empty?"
            if build
            else "with a GPU in this machine, install a CUDA build of torch: https://pytorch.org/get-started/locally"
        )
        yield Check(name="gpu", state="missing", detail=detail, remedy=remedy)


def _attention() -> Iterator[Check]:
    """Try each kernel on a tiny tensor: that it imports does not say that it runs here."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield _try_sdpa("attention: sdpa", device, flash=False)
    if device.type == "cpu":
        yield Check(name="attention: flash", state="missing", detail="needs a GPU")
        yield Check(name="attention: xformers", state="missing", detail="needs a GPU and the extra `counterforge[gpu]`")
        return
    yield _try_sdpa("attention: flash", device, flash=True)
    yield _try_xformers(device)


def _try_sdpa(name: str, device: "torch.device", flash: bool) -> Check:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    dtype = torch.float16 if device.type == "cuda" else torch.float32
    query = torch.ones(1, 2, 16, 64, device=device, dtype=dtype)
    backends = [SDPBackend.FLASH_ATTENTION] if flash else [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    try:
        with sdpa_kernel(backends):
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        return Check(name=name, state="missing", detail=f"does not run here: {reason}", remedy="use attention: sdpa")
    return Check(name=name, state="ok", detail=f"runs on {device.type}")


def _try_xformers(device: "torch.device") -> Check:
    import torch

    name, remedy = "attention: xformers", "pip install 'counterforge[gpu]' with the torch that it was built for"
    try:
        from xformers.ops import memory_efficient_attention

        query = torch.ones(1, 16, 2, 64, device=device, dtype=torch.float16)
        memory_efficient_attention(query, query, query)
    except ImportError as error:
        return Check(name=name, state="missing", detail=f"not installed: {error}", remedy=remedy)
    except (RuntimeError, NotImplementedError) as error:
        return Check(
            name=name, state="missing", detail=f"does not run here: {str(error).splitlines()[0]}", remedy=remedy
        )
    return Check(name=name, state="ok", detail="runs on cuda")


def _deepspeed() -> Iterator[Check]:
    compiler = shutil.which("g++") or shutil.which("c++")
    yield Check(
        name="deepspeed: g++",
        state="ok" if compiler else "failed",
        detail=compiler or "not found; DeepSpeed compiles its CPU communication when it is first used",
        remedy="" if compiler else "apt-get install g++ (Debian, Ubuntu) or dnf install gcc-c++",
    )
    # pip puts it beside Python, which is not on PATH where a venv is used without activating it.
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    yield Check(
        name="deepspeed: ninja",
        state="ok" if ninja else "failed",
        detail=ninja or "not found; DeepSpeed builds with it",
        remedy="" if ninja else "pip install ninja",
    )
    cache = Path(os.environ.get("TORCH_EXTENSIONS_DIR", Path.home() / ".cache" / "torch_extensions"))
    built = sorted({path.parent.name for path in cache.glob("**/*.so")}) if cache.is_dir() else []
    detail = (
        f"{', '.join(built)} in {cache}" if built else f"nothing in {cache}: the first fine-tuning takes a minute more"
    )
    yield Check(name="deepspeed: compiled", state="ok", detail=detail)


def _storage() -> Iterator[Check]:
    free = shutil.disk_usage(Path.cwd()).free
    low = free < LOW_DISK_BYTES
    yield Check(
        name="disk",
        state="missing" if low else "ok",
        detail=f"{size(free)} free in {Path.cwd()}",
        remedy="write elsewhere with --out; `counterforge plan` says how much a run needs" if low else "",
    )
    try:
        from pyarrow.fs import GcsFileSystem, S3FileSystem

        names = f"s3:// ({S3FileSystem.__name__}) and gs:// ({GcsFileSystem.__name__}) can be used with --out"
        yield Check(name="object stores", state="ok", detail=names)
    except ImportError as error:
        yield Check(
            name="object stores", state="missing", detail=str(error), remedy="install pyarrow from PyPI or conda-forge"
        )


def _zoo() -> Iterator[Check]:
    from actors.zoo import MODELS_FOLDER

    for name in ZOO:
        weights = sum(path.stat().st_size for path in (MODELS_FOLDER / name).rglob("*.safetensors"))
        yield Check(
            name=f"zoo/{name}",
            state="ok" if weights else "missing",
            detail=size(weights) if weights else f"no weights in {MODELS_FOLDER / name}",
            remedy="" if weights else "install from a checkout, or train it: make zoo",
        )


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
