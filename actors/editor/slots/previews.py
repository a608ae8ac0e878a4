"""Early stopping: previews of edits after some steps, their scores, and which edits go on."""

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from actors.editor.pipelines.jobs import EditJob
from actors.editor.samplers.solvers import DATA_1, LATENTS, NAMES, Level
from actors.editor.samplers.trajectory import Trajectory
from actors.editor.slots.autoencoder import Autoencoder
from actors.editor.slots.batcher import Denoise, SlotBatcher
from actors.editor.slots.steps import DATA, DenoiseJob
from actors.images.frame import Frame, to_tensor
from actors.models.batching import padded_batches
from actors.models.device import precision, weights_dtype
from actors.models.files import resolve_model
from actors.models.loading import model_errors
from actors.models.untyped import Model
from actors.verifier.signals.make import own_signals
from actors.verifier.signals.signal import Seen, edit_scores, see_images
from engine.runfile.editor import PreviewingEditorConfig
from engine.runfile.fields import ModelConfig
from engine.runfile.signals import ClipSignal
from engine.runfile.verifier import VerifierConfig
from engine.sample import Json
from engine.verdicts.early_cut import margin, steps_before


class TinyDecoder:
    """Decode latents to rough pictures with an AutoencoderTiny, in a small part of an autoencoder's time."""

    def __init__(self, config: ModelConfig, device: torch.device, *, batch_size: int, offline: bool) -> None:
        from diffusers import AutoencoderTiny

        files = resolve_model(config, offline)
        with model_errors(config.name, "AutoencoderTiny"):
            loaded = AutoencoderTiny.from_pretrained(
                files.folder, dtype=weights_dtype(config, device), local_files_only=True, use_safetensors=True
            )
        self._model: Model = loaded.to(device).eval()
        self._config, self._device, self._batch_size = config, device, batch_size
        self.provenance: dict[str, Json] = files.provenance

    def decode(self, latents: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the picture (3, height, width) of each of the UNet's latents, float32, about [0, 1]."""
        for batch, count in padded_batches(latents, self._batch_size):
            scaled = (torch.stack(batch) / self._model.config.scaling_factor).to(self._model.dtype)
            with precision(self._config, self._device):
                pixels = self._model.decode(scaled, return_dict=False)[0]
            yield from (pixels[:count].float() + 1) / 2


class PreviewModels:
    """The models of previews: the verifier's signals with a CLIP, and a tiny decoder if the settings name one."""

    def __init__(self, config: PreviewingEditorConfig, device: torch.device, *, offline: bool) -> None:
        assert config.early_rejection is not None  # a run that writes such settings has it
        self.config, self.early = config, config.early_rejection
        batch_size, decoder = config.decode_batch_size, self.early.decoder
        verifier = VerifierConfig(model=config.clip, batch_size=batch_size)
        self.signals = own_signals(verifier, device, offline=offline)
        self.decoder = TinyDecoder(decoder, device, batch_size=batch_size, offline=offline) if decoder else None


class Previews:
    """Drop edits whose preview is below the early-stop threshold; in a calibration run none is dropped.

    A preview is predicted by `ahead` large steps from the edit's state, in UNet calls of `num_rows` rows; the state
    itself stays. `scores` are the verifier's scores of each preview, by the key of its edit.
    """

    def __init__(
        self, models: PreviewModels, vae: Autoencoder, denoise: Denoise, *, num_rows: int, calls: Counter[str]
    ) -> None:
        self._config, self._early, self._models, self._vae = models.config, models.early, models, vae
        self._batcher = SlotBatcher(denoise=denoise, num_rows=num_rows, calls=calls)
        self._jobs: dict[str, EditJob] = {}
        self._sources: dict[str, Seen] = {}
        self.scores: dict[str, dict[str, float]] = {}
        self.record: dict[str, Json] = {
            "clip": models.signals[0].provenance["model"],
            "decoder": models.decoder.provenance if models.decoder else None,
            "after": self._early.after,
            "ahead": self._early.ahead,
            "cut": self._config.cut,
        }

    def start(self, jobs: Iterable[EditJob]) -> None:
        """Embed the sources and the texts of jobs, in place of the former ones."""
        self._jobs = {job.sample.key: job for job in jobs if job.sample.role == "counterfactual"}
        frames = {job.sample.source_key: job.frame for job in self._jobs.values()}
        pictures = [_picture(to_tensor([frame])[0], frame) for frame in frames.values()]
        self._sources = dict(zip(frames, self._see(pictures), strict=True))
        for signal in self._models.signals:
            signal.begin([job.sample for job in self._jobs.values()])
        self.scores = {}

    def after(self, denoise_job: DenoiseJob) -> int | None:
        """Return the number of steps before an edit's preview; None for a placebo and for an edit of one step."""
        steps = steps_before(self._early, denoise_job.trajectory.num_steps)
        return steps if denoise_job.key in self._jobs and steps < denoise_job.trajectory.num_steps else None

    def __call__(self, denoise_jobs: Sequence[DenoiseJob], states: torch.Tensor) -> list[bool]:
        """Return for each edit whether it goes on, and store the scores of all."""
        with torch.inference_mode():
            latents = self._leap(denoise_jobs, states)
            with precision(self._config.model, states.device):
                decoded = list(self._decode(latents))
        jobs = [self._jobs[each.key] for each in denoise_jobs]
        # Latents that are not finite go on: the editor rejects the picture at the end.
        whole = {job.sample.key: (job, one) for job, one in zip(jobs, decoded, strict=True) if one.isfinite().all()}
        seen = self._see([_picture(job.masked(picture), job.frame) for job, picture in whole.values()])
        for (job, _), own in zip(whole.values(), seen, strict=True):
            found = edit_scores(self._models.signals, job.sample, own, self._sources[job.sample.source_key])
            unasked = () if job.edit.caption != job.sample.caption else ClipSignal.of_text
            self.scores[job.sample.key] = {name: value for name, value in found.items() if name not in unasked}
        least, scores, checks = self._config.least, self.scores, self._config.checks
        if least is None:
            return [True] * len(denoise_jobs)
        return [each.key not in scores or margin(scores[each.key], checks) >= least for each in denoise_jobs]

    def _leap(self, denoise_jobs: Sequence[DenoiseJob], states: torch.Tensor) -> list[torch.Tensor]:
        """Return the predicted clean latents of edits."""
        if not self._early.ahead:
            return [state[DATA] for state in states]
        pairs = zip(denoise_jobs, states, strict=True)
        leaps = deque(leap_of(each, state, self._early.ahead) for each, state in pairs)
        found = {result.job.key: result.latents for result in self._batcher.run(leaps)}
        return [latents for each in denoise_jobs if (latents := found[each.key]) is not None]

    def _decode(self, latents: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        if self._models.decoder is not None:
            return self._models.decoder.decode(latents)
        return self._vae.decode([self._vae.unscaled(each) for each in latents])

    def _see(self, pictures: Sequence[Image.Image]) -> Iterator[Seen]:
        signals = self._models.signals
        return see_images(signals, [tuple(signal.prepare(picture) for signal in signals) for picture in pictures])


def leap_of(job: DenoiseJob, state: torch.Tensor, num_steps: int) -> DenoiseJob:
    """Return the job that goes from an edit's state after `preview_after` steps to its end in `num_steps` steps.

    The first leap needs no UNet call: it uses the prediction of the edit's last step.
    """
    own, after = job.trajectory, job.preview_after
    assert after is not None
    places = leap_places(after, own.num_steps, num_steps)
    (alpha, sigma), (to_alpha, to_sigma) = own.levels[[after, places[0]]].tolist()
    noise = (state[0] - alpha * state[DATA]) / sigma
    latents = to_alpha * state[DATA] + to_sigma * noise
    if (blend := job.blend) is not None:
        latents = torch.lerp(blend.latents(to_alpha, to_sigma), latents, blend.mask)
    return replace(
        job,
        latents=latents,
        trajectory=_leaps(own, after, places),
        data=state[DATA],
        plain=(),
        guided_steps=(0, 1 << 30),
        adapter_steps=(0, 1 << 30),
        preview_after=None,
    )


def leap_places(after: int, num_steps: int, num_leaps: int) -> list[int]:
    """Return the steps of the edit at which the UNet is called, evenly between its present step and its end."""
    gap = (num_steps - after) / (num_leaps + 1)
    return sorted({min(after + round(gap * place), num_steps - 1) for place in range(1, num_leaps + 1)})


def _leaps(own: Trajectory, after: int, places: Sequence[int]) -> Trajectory:
    """Return the steps from each of the places to the next, and from the last to the clean latents predicted there.

    DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): each prediction is extrapolated by the one before.
    """
    table = np.zeros((len(places), 3, len(NAMES)))
    # The prediction of clean latents is the same for all samplers: it needs only the latents and the UNet's output.
    table[:, 1] = own.table[places, 1]
    table[-1, 0] = table[-1, 1]
    levels = [Level(alpha=alpha, sigma=sigma) for alpha, sigma in own.levels[[after - 1, *places]].tolist()]
    for step, (before, now, to) in enumerate(zip(levels, levels[1:], levels[2:], strict=False)):
        ahead, back = to.half_log_snr - now.half_log_snr, now.half_log_snr - before.half_log_snr
        data = table[step, 1] + ahead / (2 * back) * (table[step, 1] - DATA_1)
        share = to.sigma / now.sigma
        table[step, 0] = share * LATENTS + (to.alpha - share * now.alpha) * data
    return Trajectory(
        times=own.times[places],
        input_scales=own.input_scales[places],
        table=table,
        levels=np.array([*own.levels[places], (1.0, 0.0)]),
        start=(levels[1].alpha, levels[1].sigma),
    )


def _picture(square: torch.Tensor, frame: Frame) -> Image.Image:
    """Return the picture inside a square (3, size, size) of values in [0, 1]."""
    inside = square[:, frame.top : frame.top + frame.height, frame.left : frame.left + frame.width]
    pixels = (inside.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)
