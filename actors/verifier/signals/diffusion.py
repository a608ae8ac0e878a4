"""The signal `diffusion`: a diffusion model as a classifier of the edit."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from PIL import Image

from actors.images.frame import fit, to_tensor
from actors.verifier.signals.denoiser import Denoiser, Noised
from actors.verifier.signals.signal import Scores, Signal
from engine.names import first_word
from engine.runfile.signals import DiffusionSignal
from engine.sample import Json, Sample, content_seed

# Steps of this share of a circle never meet, and each beginning of them is spread evenly (Kronecker's sequence).
GOLDEN = (math.sqrt(5) - 1) / 2


class Diffusion(Signal):
    """Score by how much better a picture is denoised by the word of its class than by that of any other of the run.

    Li et al. 2023, "Your diffusion model is secretly a zero-shot classifier", algorithm 2: mean squared errors over the
    same noise and timesteps for all classes, which are drawn by the edit's key; in stages, of which each leaves fewer
    other classes. With e of the class and e' of the best other the score is (e' - e) / (e' + e), in [-1, 1] and above 0
    where the class explains the picture best. It is NaN where the run has no other class.
    """

    def __init__(
        self,
        name: str,
        settings: DiffusionSignal,
        device: torch.device,
        *,
        offline: bool,
        classes: Sequence[str],
        words: Mapping[str, Sequence[str]],
    ) -> None:
        self._name, self._settings = name, settings
        self._model = Denoiser(settings.model, device, num_rows=settings.unet_rows, size=settings.size, offline=offline)
        self._texts = {each: settings.prompt.replace("{}", first_word(each, words)) for each in classes}
        self._embeddings = self._model.embeddings(sorted(set(self._texts.values())))
        self.provenance: Mapping[str, Json] = self._model.provenance

    def prepare(self, image: Image.Image) -> torch.Tensor:
        """Return the picture in the model's square, (3, size, size) in [0, 1]."""
        return to_tensor([fit(image, self._model.size)])[0]

    def see(self, prepared: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the latents of each picture."""
        return list(self._model.latents(prepared))

    def edit_scores(
        self, edit: Sample, seen: torch.Tensor, source_seen: torch.Tensor, placebo_seen: torch.Tensor | None
    ) -> Scores:
        """Return the margin of the class of an edit's source."""
        own = self._texts.get(edit.class_name)
        # A word that two classes share does not tell them apart.
        others = sorted(self._embeddings.keys() - {own})
        if own is None or not others:
            return {self._name: math.nan}
        beside = source_seen if self._settings.given == "source" else seen
        errors: dict[str, list[float]] = {text: [] for text in (own, *others)}
        draws = self._draws(edit, seen)
        keep = *self._settings.keep, len(others)
        start = 0
        for end, number in zip(self._settings.samples, keep, strict=True):
            asked = [(text, draw) for text in (own, *others) for draw in draws[start:end]]
            questions = [draw._replace(embedding=self._embeddings[text]) for text, draw in asked]
            for (text, _), error in zip(asked, self._model.errors(seen, beside, questions), strict=True):
                errors[text].append(error)
            others = sorted(others, key=lambda text: fmean(errors[text]))[:number]
            start = end
        own_error, other_error = (fmean(errors[text]) for text in (own, others[0]))
        return {self._name: (other_error - own_error) / (other_error + own_error)}

    def _draws(self, edit: Sample, latents: torch.Tensor) -> list[Noised]:
        """Return the noise and the timestep of each question, without its text."""
        generator = torch.Generator().manual_seed(content_seed(0, f"diffusion/{edit.key}"))
        number = self._settings.samples[-1]
        begin = float(torch.rand((), generator=generator, dtype=torch.float64))
        noise = torch.randn((number, *latents.shape), generator=generator)
        places = [(begin + GOLDEN * index) % 1.0 for index in range(number)]
        nothing = torch.empty(0)
        return [
            Noised(noise=each, timestep=int(place * self._model.num_timesteps), embedding=nothing)
            for each, place in zip(noise, places, strict=True)
        ]
