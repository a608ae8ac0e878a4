"""The estimated cost of a run: shards, images, bytes, GPU-hours and money.

Times are measured where shards of the run are finished; else they are FLOPs over a typical rate, and marked as guesses.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never

from engine.plan.plan import Plan
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.editor import CompositorConfig, EditorConfig
from engine.runfile.fields import Placement, ServerConfig
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.runfile.stages import DRAWING, AnyStageConfig, PluginConfig, drawn_share
from engine.runfile.verifier import VerifierConfig
from engine.shards.marker import Marker, add_counts
from engine.wording import duration, size

Basis = Literal["measured", "guess", "unknown"]

# TFLOP of one U-Net or transformer row at the family's own edge in pixels, that edge, and the rows of a guided step,
# None where the method says them. Counted on the published configurations, with the source's tokens where there are.
DIFFUSION: tuple[tuple[str, float, int, int | None], ...] = (
    (r"^zoo/", 0.0007, 64, None),
    (r"kontext", 165.0, 1024, 1),
    (r"flux\.?2.*klein.*9b", 161.0, 1024, 1),
    (r"flux\.?2.*klein", 77.0, 1024, 1),
    (r"flux\.?2", 583.0, 1024, 1),
    (r"flux", 74.0, 1024, 1),
    (r"qwen-image-edit", 164.0, 1024, 2),
    (r"qwen-image", 71.0, 1024, 2),
    (r"z-image", 57.0, 1024, 2),
    (r"chroma", 75.0, 1024, 2),
    (r"stable-diffusion-3.*large", 31.0, 1024, 2),
    (r"stable-diffusion-3", 8.9, 1024, 2),
    (r"xl|sdxl", 6.9, 1024, None),
    (r"stable-diffusion|sd-?[12v]|pix2pix", 0.8, 512, None),
)
# TFLOP of one image through a CLIP image tower.
CLIP = ((r"^zoo/", 0.0001), (r"vit-h", 0.33), (r"large|-l-|/l14|vit-l", 0.162), (r"base|-b-|vit-b", 0.0088))
# Billions of parameters of models whose names do not say it; others are read from names such as Qwen3-4B.
LANGUAGE = (
    (r"^zoo/", 0.003),
    (r"florence-2-large", 0.77),
    (r"florence-2", 0.23),
    (r"blip.*large", 0.47),
    (r"blip", 0.25),
)
PROMPT_TOKENS = 400

# TFLOP/s that stock code sustains: images on one A100-class GPU, text on one, either on one CPU core.
GPU_IMAGE_RATE, GPU_TEXT_RATE, CPU_RATE = 100.0, 10.0, 0.03

# Bytes of one pixel of a JPEG at quality 95 and of the records beside it.
BYTES_PER_PIXEL, BYTES_PER_RECORD = 0.5, 2_500
DEFAULT_EDGE = 512


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Costs measured on finished shards: seconds per sample by stage, bytes per stored image, edits per source."""

    seconds: Mapping[str, float]
    bytes_per_image: float
    edits_per_source: float


@dataclass(frozen=True, kw_only=True)
class StageEstimate:
    """One stage: `seconds` on one device for all its samples, None for an unknown model or number of samples."""

    name: str
    num_samples: int | None
    seconds: float | None
    basis: Basis
    num_gpus: float
    replicas: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of generating. Totals leave out stages of unknown time; `wall_hours` assumes all replicas.

    `num_edits` is None where the edits are made by code of the user's and no shard is finished: `size_bytes` is then of
    the sources alone.
    """

    num_shards: int
    num_sources: int
    num_edits: int | None
    num_placebos: int
    size_bytes: int
    stages: tuple[StageEstimate, ...]
    gpu_hours: float
    cpu_hours: float
    wall_hours: float
    cost: float | None

    @property
    def num_images(self) -> int:
        """Return sources, placebos and edits together, without edits of an unknown number."""
        return self.num_sources + self.num_placebos + (self.num_edits or 0)

    @property
    def basis(self) -> Basis:
        """Return the weakest basis among the stages."""
        order: tuple[Basis, ...] = ("unknown", "guess", "measured")
        return min((stage.basis for stage in self.stages), key=order.index)


def estimate_run(run: RunFile, plan: Plan, measured: Measured | None = None) -> Estimate:
    """Return the estimated cost of all shards of the plan."""
    num_sources = plan.num_edited
    edits: int | None = 0
    placebos = 0
    has_perturber = any(isinstance(config, PerturberConfig) for config in run.stages.values())
    stages: list[StageEstimate] = []
    wall = 0.0
    for group in run.stage_groups():
        placement = run.stages[group[0]].placement
        for name in group:
            config, samples = run.stages[name], None if edits is None else edits + placebos or num_sources
            if isinstance(config, PluginConfig) and not has_perturber and not edits:
                edits = round(measured.edits_per_source * num_sources) if measured else None
            if isinstance(config, PerturberConfig):
                edits = num_sources * config.num_edits()
                placebos = num_sources * config.num_placebos()
            if isinstance(config, CaptionerConfig | PerturberConfig):
                samples = num_sources
            if config.kind in DRAWING and samples is not None:
                samples = round(samples * drawn_share(run.stages, name))
            stages.append(_stage(name, config, placement, samples, measured))
        seconds = sum(stage.seconds or 0 for stage in stages[-len(group) :])
        wall = max(wall, seconds / placement.replicas[1])
    gpu_hours = sum((stage.seconds or 0) * stage.num_gpus for stage in stages) / 3600
    price = run.report.gpu_price_per_hour
    bytes_per_image = measured.bytes_per_image if measured else _bytes_per_image(run)
    return Estimate(
        num_shards=plan.num_shards,
        num_sources=num_sources,
        num_edits=edits,
        num_placebos=placebos,
        size_bytes=round((num_sources + (edits or 0) + placebos) * bytes_per_image),
        stages=tuple(stages),
        gpu_hours=gpu_hours,
        cpu_hours=sum(stage.seconds or 0 for stage in stages if not stage.num_gpus) / 3600,
        wall_hours=wall / 3600,
        cost=None if price is None else gpu_hours * price,
    )


def measure(run: RunFile, markers: Mapping[int, Marker]) -> Measured | None:
    """Return the costs measured on finished shards, None without any."""
    counts = add_counts(markers)
    images = counts.candidates + counts.placebos + counts.rejected_placebos
    files = [file for marker in markers.values() for name, file in marker.files.items() if name.endswith(".tar")]
    stored = sum(file.samples for file in files)
    if not counts.sources or not stored:
        return None
    seconds = {}
    for name, config in run.stages.items():
        samples: float = images or counts.sources
        if isinstance(config, CaptionerConfig | PerturberConfig):
            samples = counts.sources
        elif config.kind in DRAWING:
            samples *= drawn_share(run.stages, name)
        timed = [marker.seconds[name] for marker in markers.values() if name in marker.seconds]
        if timed:
            seconds[name] = sum(timed) / samples
    bytes_per_image = sum(file.bytes for file in files) / stored
    return Measured(seconds=seconds, bytes_per_image=bytes_per_image, edits_per_source=images / counts.sources)


def describe_missing(run: RunFile, plan: Plan, markers: Mapping[int, Marker]) -> str:
    """Return one phrase about the space that unfinished shards need, measured where some are finished."""
    left = plan.num_shards - len(markers)
    size_bytes = estimate_run(run, plan, measure(run, markers)).size_bytes * left / max(plan.num_shards, 1)
    return f"{'one shard is' if left == 1 else f'{left} shards are'} left, which need about {size(size_bytes)}"


def describe(estimate: Estimate) -> list[str]:
    """Return the estimate as lines for a person."""
    images = f"{estimate.num_images:,} ({estimate.num_edits or 0:,} edits, {estimate.num_placebos:,} placebos)"
    least = "about"
    if estimate.num_edits is None:
        images, least = "not known before the first shard: the edits are made by your code", "at least"
    lines = [
        f"shards      {estimate.num_shards:,}",
        f"sources     {estimate.num_sources:,}",
        f"images      {images}",
        f"storage     {least} {size(estimate.size_bytes)}",
    ]
    for stage in estimate.stages:
        where = f"{stage.num_gpus:g} GPU" if stage.num_gpus else "CPU"
        time = "time not known" if stage.seconds is None else f"{duration(stage.seconds)} ({stage.basis})"
        number = "?" if stage.num_samples is None else f"{stage.num_samples:,}"
        lines.append(f"  {stage.name:<12}{number:>12} samples   {where}   {time}")
    more = ", without stages of unknown time" if estimate.basis == "unknown" else ""
    lines.append(f"GPU-hours   {estimate.gpu_hours:.2f}")
    lines.append(f"wall clock  about {duration(3600 * estimate.wall_hours)} with all replicas{more}")
    if estimate.cost is not None:
        lines.append(f"cost        {estimate.cost:,.2f} at your price of a GPU-hour")
    if estimate.basis != "measured":
        lines.append(
            f"Guessed times are FLOPs at {GPU_IMAGE_RATE:g} TFLOP/s a GPU: right within a factor of 3 or so. "
            "After the first shard of a run, `counterforge plan` uses measured times."
        )
    return lines


def _stage(
    name: str, config: AnyStageConfig, placement: Placement, num_samples: int | None, measured: Measured | None
) -> StageEstimate:
    basis: Basis = "measured"
    if measured is None or (each := measured.seconds.get(name)) is None:
        each, basis = _guess_seconds(config, placement), "guess"
    seconds = None if each is None or num_samples is None else each * num_samples
    return StageEstimate(
        name=name,
        num_samples=num_samples,
        seconds=seconds,
        basis="unknown" if seconds is None else basis,
        num_gpus=placement.num_gpus,
        replicas=placement.replicas[1],
    )


def _guess_seconds(config: AnyStageConfig, placement: Placement) -> float | None:
    """Return the guessed seconds of one sample on one device, from the model's name."""
    match config:
        case PluginConfig() | CaptionerConfig(server=ServerConfig()) | PerturberConfig(server=ServerConfig()):
            return None
        case CompositorConfig():
            tflop, rate = _look_up(CLIP, config.mask_model.name), GPU_IMAGE_RATE
        case EditorConfig():
            tflop, rate = _editor_tflop(config), GPU_IMAGE_RATE
        case VerifierConfig():
            tflop, rate = _verifier_tflop(config), GPU_IMAGE_RATE
        case CaptionerConfig():
            tflop, rate = _language_tflop(config.model.name, config.max_new_tokens), GPU_TEXT_RATE
        case PerturberConfig():
            number = sum(count for kind, count in config.asked.items() if kind not in config.values)
            model = config.model
            tflop = 0.0 if model is None else _language_tflop(model.name, config.max_new_tokens * number)
            rate = GPU_TEXT_RATE
        case _:
            assert_never(config)
    if tflop is None:
        return None
    return tflop / (rate if placement.num_gpus else CPU_RATE * placement.num_threads)


def _verifier_tflop(config: VerifierConfig) -> float | None:
    """Return the work of a verifier's networks on one image; of one that is not known, as much as of a CLIP."""
    models = [config.model, *(getattr(signal, "model", None) for signal in config.signals.values())]
    found = [_look_up(CLIP, model.name) for model in models if model is not None]
    return None if None in found else sum(each for each in found if each is not None)


def _editor_tflop(config: EditorConfig) -> float | None:
    row, edge, rows = _family(config.model.name)
    if row is None:
        return None
    match config.method:
        case "instruct":
            rows, steps = rows or 3, float(config.num_inference_steps)
        case "img2img" | "inpaint":
            rows, steps = rows or 2, config.num_inference_steps * config.strength
        case _:
            assert_never(config.method)
    return rows * steps * row * ((config.size or edge) / edge) ** 2


def _family(name: str) -> tuple[float | None, int, int | None]:
    """Return a model's TFLOP of a row, native edge and rows of a step; without a family None, DEFAULT_EDGE, None."""
    known = ((row, edge, rows) for pattern, row, edge, rows in DIFFUSION if re.search(pattern, name.lower()))
    return next(known, (None, DEFAULT_EDGE, None))


def _language_tflop(name: str, new_tokens: int) -> float | None:
    billions = _look_up(LANGUAGE, name)
    size = re.search(r"(\d+(?:\.\d+)?)b\b", name.lower())
    if billions is None and size:
        billions = float(size[1])
    return None if billions is None else 2 * billions * (PROMPT_TOKENS + new_tokens) / 1000


def _look_up(table: tuple[tuple[str, float], ...], name: str) -> float | None:
    return next((value for pattern, value in table if re.search(pattern, name.lower())), None)


def _bytes_per_image(run: RunFile) -> float:
    editor = next((config for config in run.stages.values() if isinstance(config, EditorConfig)), None)
    edge: float = DEFAULT_EDGE
    if editor is not None:
        edge = editor.size or _family(editor.model.name)[1]
    return edge * edge * BYTES_PER_PIXEL + BYTES_PER_RECORD
