"""What large classifiers take: ViT-L/16 and ConvNeXt-L in a few steps of `reinforce`, under ZeRO-3.

True architectures with random weights, which cost what trained ones cost: nothing is downloaded. A run directory of
stand-in pictures is trained on by Ray Train and DeepSpeed as any other is: batches, checkpoints, scores, the weights in
between, the saved model. With a GPU the worker has it. `--size tiny` is as deep and has as many parameters, all narrow.
"""

import argparse
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import psutil
import torch
from finetune_run import CLASSES, committed_run, run_file, save_images

from actors.finetune.arm_run import STATE
from actors.models.untyped import Model
from cluster.phases.reinforce import reinforce_run
from cluster.session.placement import reinforce_needs
from cluster.session.session import ray_session
from engine.figures.figures import FIGURES_FOLDER, Figure, describe, machine, table, write_figures
from engine.run.directory import RunDirectory
from engine.runfile.run import RunFile
from tests.benchmarks.fresh import MEMORY_LINE

COMMAND = "bench-large"
LOG = logging.getLogger(__name__)
GIB = 2**30
EDGES = {"full": 224, "tiny": 32}
# The published depths and widths.
VIT_L = {
    "full": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 24, "num_attention_heads": 16},
}
CONVNEXT_L = {
    "full": {"depths": [3, 3, 27, 3], "hidden_sizes": [192, 384, 768, 1536]},
    "tiny": {"depths": [3, 3, 27, 3], "hidden_sizes": [8, 8, 16, 16]},
}
MODELS = ("vit_l", "convnext_l")
CASES: Mapping[str, Mapping[str, object]] = {
    "head": {"trained": "head"},
    "lora": {"trained": "lora"},
    "layers": {"first_layer_rate": 0.1},
}
ZERO_3 = {"zero_optimization": {"stage": 3}}
PICTURES_PER_CLASS = 6
LOOK_S = 0.2


class Watch:
    """Look at the training workers of this process: `peak` is the most memory that one of them ever held, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch")

    def __enter__(self) -> "Watch":
        """Start to look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        # By number: Ray names its processes anew for each call.
        workers: set[int] = set()
        while not self._stop.wait(LOOK_S):
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.pid in workers or "RayTrainWorker" in " ".join(process.cmdline()):
                        workers.add(process.pid)
                        self.peak = max(self.peak, peak_bytes(process.pid))
                except (OSError, psutil.Error):
                    continue


def peak_bytes(pid: int) -> int:
    """Return the largest resident memory that a process ever had; raises OSError where it is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return max((1024 * int(line.split()[1]) for line in lines if line.startswith(MEMORY_LINE)), default=0)


def classifier(name: str, size: str, num_labels: int = len(CLASSES)) -> Model:
    """Return a classifier with random weights."""
    from transformers import ConvNextConfig, ConvNextForImageClassification, ViTConfig, ViTForImageClassification

    names = dict(enumerate(CLASSES if num_labels == len(CLASSES) else map(str, range(num_labels))))
    labels = {"id2label": names, "label2id": {label: index for index, label in names.items()}}
    torch.manual_seed(0)
    if name == "vit_l":
        return ViTForImageClassification(ViTConfig(**VIT_L[size], image_size=EDGES[size], **labels))
    return ConvNextForImageClassification(ConvNextConfig(**CONVNEXT_L[size], image_size=EDGES[size], **labels))


def save_classifier(folder: Path, name: str, size: str) -> int:
    """Save a classifier with its image processor; return its bytes in float32."""
    from transformers import ConvNextImageProcessorPil, ViTImageProcessorPil

    model, edge = classifier(name, size), EDGES[size]
    model.save_pretrained(folder)
    if name == "vit_l":
        ViTImageProcessorPil(size={"height": edge, "width": edge}).save_pretrained(folder)
    else:
        ConvNextImageProcessorPil(size={"shortest_edge": edge}, crop_pct=1.0).save_pretrained(folder)
    return 4 * sum(parameter.numel() for parameter in model.parameters())


def make_run(folder: Path, model: Path, case: str, options: argparse.Namespace) -> tuple[RunFile, RunDirectory]:
    """Return a run directory whose edits are there, and its run file."""
    save_images(folder / "images", PICTURES_PER_CLASS)
    precision = {} if options.precision == "float32" else {"bf16": {"enabled": True}}
    run = run_file(
        folder / "images",
        model,
        arms={"large": {"edits": {"by": "alike"}}},
        ships="large",
        num_steps=options.steps,
        eval_every=max(1, options.steps // 2),
        batch_size=options.batch_size,
        learning_rate=1e-4,
        interpolation=[0.5],
        deepspeed=ZERO_3 | precision,
        placement={"num_threads": options.threads, "num_gpus": int(torch.cuda.is_available())},
        **CASES[case],
    )
    return run, committed_run(folder / "run", run, edits=1)


def case_figures(folder: Path, model: Path, size_bytes: int, options: argparse.Namespace) -> Iterator[Figure]:
    """Yield memory, speed and size of the checkpoints of one case after another."""
    for case in options.case or CASES:
        run, rundir = make_run(folder / case, model, case, options)
        start = perf_counter()
        with ray_session([reinforce_needs(run.reinforce)]), Watch() as watch:
            result = reinforce_run(run, rundir)
        seconds = perf_counter() - start
        # The first line has what is done once: memory that is asked for, kernels that are chosen.
        line = result["arms"]["large"]["history"][-1]
        subject = f"{model.name}.{case}"
        rate = line["images_per_second"]
        newest = max((folder / case / "run" / "checkpoints").glob(f"*/*/{STATE}")).parent
        on_disk = sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
        yield Figure(name=f"large.peak_memory.{subject}", value=watch.peak / GIB, unit="GiB")
        yield Figure(name=f"large.peak_in_models.{subject}", value=watch.peak / size_bytes, unit="times")
        yield Figure(name=f"large.images.{subject}", value=rate, n=options.steps, unit="images/s")
        yield Figure(name=f"large.steps.{subject}", value=60 * rate / options.batch_size, unit="steps/min")
        yield Figure(name=f"large.checkpoint.{subject}", value=on_disk / GIB, unit="GiB")
        yield Figure(name=f"large.seconds.{subject}", value=seconds, unit="s")
        LOG.info("%s: %.2f GiB, %.3f images/s, %.0f s", subject, watch.peak / GIB, rate, seconds)
        shutil.rmtree(folder / case)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for; only all cases of all models together are written down."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.large", description=__doc__)
    parser.add_argument("--size", choices=list(EDGES), default="full")
    parser.add_argument("--model", choices=MODELS, action="append", help="one of them, which is printed, not written")
    parser.add_argument("--case", choices=list(CASES), action="append", help="one of them, printed and not written")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=FIGURES_FOLDER, help="folder of the figures")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    figures: list[Figure] = []
    for name in options.model or MODELS:
        with tempfile.TemporaryDirectory(prefix="counterforge-large-") as folder:
            size_bytes = save_classifier(Path(folder, name), name, options.size)
            LOG.info("%s: %.2f GiB in float32, load %.1f", name, size_bytes / GIB, os.getloadavg()[0])
            yielded = case_figures(Path(folder), Path(folder, name), size_bytes, options)
            figures += [Figure(name=f"large.model.{name}", value=size_bytes / GIB, unit="GiB"), *yielded]
    print(table(figures))
    if options.model is None and options.case is None:
        print(f"\nWritten to {write_figures(COMMAND, figures, options.out)}")
    print(describe(machine()))


if __name__ == "__main__":
    main()
