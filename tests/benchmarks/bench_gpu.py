"""What the editor makes of a GPU: figures 1 to 4, and where each millisecond of an image goes.

Stable Diffusion 1.5 at 512 pixels and XL at 1024, in their true architectures with random weights, which cost what
trained ones cost: nothing is downloaded. Prints a table and writes build/figures/bench-gpu.json. An hour on one GPU;
with `--size tiny` the same code runs on a CPU to its end, and its figures say only that it does.
"""

import argparse
import gc
import logging
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter

import torch

from cluster.session.placement import Need
from cluster.session.session import ray_session
from engine.figures.figures import FIGURES_FOLDER, Figure, cells, describe, machine, table, write_figures
from engine.runfile.run import RunFile
from tests.benchmarks.gpu.arms import BareLoop, Engine, run_file, write_sources
from tests.benchmarks.gpu.flops import count_cost, counted, nominal_tflops, product_tflops
from tests.benchmarks.gpu.peers import BATCH, EngineUnderRay, Peer, closed_figures
from tests.benchmarks.gpu.spent import spent_figures
from tests.benchmarks.gpu.subjects import Subject, subjects
from tests.benchmarks.pairs import NUM_ROUNDS, ratio_figure, timed

COMMAND = "bench-gpu"
LOG = logging.getLogger(__name__)
PARTS = ("efficiency", "open", "spent", "closed")
# Fewer steps of a better solver, no guidance at the end, deep features kept: other pictures, for a judge to accept.
OPEN = {"scheduler": "DPMSolverMultistepScheduler", "guidance_interval": (0.0, 0.7), "deep_cache_interval": 3}
# As of models that need few steps: four, without guidance.
FEW_STEPS = {"num_inference_steps": 5, "strength": 0.8, "guidance_scale": 1.0}
NUM_TIMED = 3


class Bench:
    """Measure one editor, saved into a folder, on a device."""

    def __init__(self, subject: Subject, folder: Path, device: torch.device, options: argparse.Namespace) -> None:
        self.subject, self.folder, self.device, self.options = subject, folder, device, options
        self.is_full = options.size == "full"
        self.num_shards, self.num_batches = (4, 2) if self.is_full else (3, 1)
        self.model, self.verifier, self.sources = (folder / name for name in ("model", "verifier", "sources.tar"))
        subject.save(self.model, device)
        subject.save_verifier(self.verifier, device)
        write_sources(self.sources, subject, self.num_shards * self.num_batches * subject.batch_size)
        self.cost = count_cost(self.model, self.verifier, subject.size)

    def figures(self, parts: tuple[str, ...]) -> Iterator[Figure]:
        """Yield the figures of the parts that are wanted."""
        if set(parts) - {"closed"}:
            engine = self._engine("engine")
            if "efficiency" in parts:
                yield from self._efficiency(engine)
                yield from self._few_steps()
            if "spent" in parts:
                yield from spent_figures(self.subject.name, engine)
            if "open" in parts:
                yield from self._open(engine)
            engine.threads.shutdown()
            del engine
            torch.compiler.reset()
            gc.collect()
            torch.cuda.empty_cache()
        if "closed" in parts:
            yield from self._closed()

    def _engine(self, name: str, **changes: object) -> Engine:
        start = perf_counter()
        engine = Engine(self._run_file(**changes), self.folder / name)
        engine()
        LOG.info(
            "%s, %s: %s, ready in %.0f s",
            self.subject.name, name, engine.editor.drawing.record, perf_counter() - start,
        )  # fmt: skip
        return engine

    def _run_file(self, num_sources: int | None = None, **changes: object) -> RunFile:
        settings = {"compile": self.options.compile, "attention": self.options.attention, **changes}
        places = self.model, self.verifier, self.sources
        return run_file(
            self.subject, *places, self.device, num_batches=self.num_batches, num_sources=num_sources, **settings
        )

    def _efficiency(self, engine: Engine) -> Iterator[Figure]:
        """Yield figures 1 and 3: against the networks alone, and against the limit of the GPU."""
        calls = self._calls_of_a_pass(engine)
        yield self._ratio("engine_efficiency", engine, BareLoop(engine, calls), self.subject.efficiency)
        edge = 8192 if self.is_full else 512
        product = product_tflops(self.device, edge)
        rate = engine.plan.num_edited / statistics.median([timed(engine) for _ in range(NUM_TIMED)])
        product = (product + product_tflops(self.device, edge)) / 2
        yield from self._limits(rate, self.cost.of(calls) / engine.plan.num_edited, product)

    def _few_steps(self) -> Iterator[Figure]:
        few = self._engine("few-steps", **FEW_STEPS)
        bare = BareLoop(few, self._calls_of_a_pass(few))
        yield self._ratio("engine_efficiency_few_steps", few, bare, 0.93 if self.is_full else None)
        few.threads.shutdown()

    def _calls_of_a_pass(self, engine: Engine) -> Counter[str]:
        before = engine.calls
        engine()
        return counted(before, engine.calls)

    def _ratio(
        self,
        name: str,
        arm: Callable[[], object],
        against: Callable[[], object],
        target: float | None,
        per: tuple[float, float] = (1.0, 1.0),
    ) -> Figure:
        name, rounds = f"{self.subject.name}.{name}", self.options.rounds
        return ratio_figure(name, arm, against, target, per=per, num_rounds=rounds)

    def _limits(self, rate: float, tflop: float, product: float) -> Iterator[Figure]:
        name, peak = self.subject.name, nominal_tflops(self.device)
        yield Figure(name=f"{name}.images", value=rate, n=NUM_TIMED, unit="images/s")
        yield Figure(name=f"{name}.cost", value=tflop, unit="TFLOP an image")
        yield Figure(name=f"{name}.product", value=product, unit="TFLOP/s")
        yield Figure(name=f"{name}.limit_by_product", value=product / tflop, unit="images/s")
        full = self.is_full
        yield Figure(
            name=f"{name}.mfu_of_product", value=rate * tflop / product,
            target=0.75 if full else None, better="higher" if full else None,
        )  # fmt: skip
        if peak is not None:
            yield Figure(name=f"{name}.limit_nominal", value=peak / tflop, unit="images/s")
            yield Figure(
                name=f"{name}.mfu_nominal", value=rate * tflop / peak, target=self.subject.mfu,
                better=None if self.subject.mfu is None else "higher",
            )  # fmt: skip

    def _open(self, engine: Engine) -> Iterator[Figure]:
        """Yield figure 4. Of random weights the judge says nothing: with them it is a speed-up and no more."""
        fast = self._engine("open", **OPEN, num_inference_steps=self.subject.open_steps)
        name, num = self.subject.name, engine.plan.num_edited
        ours, plain = (sum(marker.counts.accepted for marker in run()) for run in (fast, engine))
        yield self._ratio("open_speed_up", fast, engine, 5.0 if self.is_full else None, per=(ours, plain))
        yield Figure(name=f"{name}.open_accepted", value=ours / num, n=num)
        yield Figure(name=f"{name}.closed_accepted", value=plain / num, n=num)
        fast.threads.shutdown()

    def _closed(self) -> Iterator[Figure]:
        """Yield figure 2: whole runs under Ray, ours and the peer's."""
        batch = BATCH if self.is_full else self.subject.batch_size
        engine = EngineUnderRay(self._run_of, self.folder / "under-ray")
        peer = Peer(self.subject, self.model, self.sources, self.device, batch)
        need = Need(path="engine", num_cpus=1, num_gpus=float(self.device.type == "cuda"), replicas=(1, 1))
        edits = Need(path="edits", num_cpus=1, num_gpus=0, replicas=(1, 1))
        with ray_session([[need, edits]]):
            yield from closed_figures(self.subject, engine, peer, self.options.rounds)

    def _run_of(self, num_shards: int) -> RunFile:
        return self._run_file(num_sources=num_shards * self.num_batches * self.subject.batch_size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for; only all the parts of all editors together are written down."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_gpu", description=__doc__)
    parser.add_argument("--size", choices=["full", "tiny"], default="full")
    parser.add_argument("--only", choices=PARTS, action="append", help="one part, which is printed and not written")
    parser.add_argument("--subject", help="one editor, which is printed and not written: sd15, sdxl")
    parser.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="of A-B-B-A, for each ratio")
    parser.add_argument("--compile", choices=["off", "default", "max-autotune"], help="default: off at tiny size")
    parser.add_argument("--attention", choices=["sdpa", "flash", "xformers", "fastest"], default="fastest")
    parser.add_argument("--out", type=Path, default=FIGURES_FOLDER, help="folder of the figures")
    options = parser.parse_args(arguments)
    if options.compile is None:
        options.compile = "default" if options.size == "full" else "off"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.size == "full" and not torch.cuda.is_available():
        parser.error("the full size wants a CUDA device, and there is none: --size tiny runs the same code on a CPU")
    device = torch.device("cuda" if options.size == "full" else "cpu")
    wanted = [item for item in subjects(options.size) if item.name.startswith(options.subject or "")]
    if not wanted:
        parser.error(f"--subject {options.subject}: right are {[item.name for item in subjects(options.size)]}")
    figures: list[Figure] = []
    for subject in wanted:
        LOG.info("%s: load %.1f", subject.name, os.getloadavg()[0])
        with tempfile.TemporaryDirectory(prefix="counterforge-gpu-") as folder:
            bench = Bench(subject, Path(folder), device, options)
            for figure in bench.figures(tuple(options.only or PARTS)):
                LOG.info("%s", " ".join(cells(figure)))
                figures.append(figure)
    print(table(figures))
    if options.only is None and options.subject is None:
        print(f"\nWritten to {write_figures(COMMAND, figures, options.out)}")
    print(describe(machine()))


if __name__ == "__main__":
    main()
