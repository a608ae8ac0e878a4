"""The provenance of a picture in words: its edit, its scores with thresholds, the models, the file."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from engine.report.shown import PictureFile
from engine.runfile.run import RunFile
from engine.runfile.verifier import VerifierConfig
from engine.sample import Json, Sample
from engine.verdicts.rule import asked_checks
from engine.wording import score, words

Facts = list[tuple[str, str]]


def provenance(sample: Sample, run: RunFile, place: PictureFile | None = None) -> Facts:
    """Return a picture's provenance as names and values, without empty ones."""
    facts = {
        "key": sample.key,
        "source key": sample.source_key,
        "role": sample.role,
        "split": sample.split,
        "class": sample.class_name,
        "caption": sample.caption,
        **sample.attributes,
        **_edit(sample),
        **_scores(sample, run),
    }
    if sample.verdict:
        reasons = ", ".join(words(reason) for reason in sample.verdict.reasons)
        facts["verdict"] = "accepted" if sample.verdict.accepted else f"rejected: {reasons}"
        facts |= {f"{signal} says": text for signal, text in sample.verdict.notes.items()}
    facts |= {name: text for stage, made in sample.provenance.items() for name, text in _stage(stage, made)}
    if place:
        facts |= {"shard file": place.file, "tar member": place.member}
    return [(words(name), value) for name, value in facts.items() if value]


def _edit(sample: Sample) -> dict[str, str]:
    if sample.edit is None:
        return {}
    change = "" if sample.role == "placebo" else f": {sample.edit.before} → {sample.edit.after}"
    return {
        "edit": f"{sample.edit.kind}{change}",
        "instruction": sample.edit.instruction,
        "edited caption": sample.edit.caption,
        "severity": f"{sample.edit.severity:g}",
        "drawn by": sample.edit.strategy,
    }


def _scores(sample: Sample, run: RunFile) -> dict[str, str]:
    """Return each score, with its threshold where the run's verifier has one."""
    verifiers = [stage for stage in run.stages.values() if isinstance(stage, VerifierConfig)]
    config = verifiers[-1] if verifiers else None
    asked = {}
    if config is not None and sample.edit is not None:
        asked = {
            check.score: ", above 0 asked" if check.floor is True else f", at least {check.floor:g} asked"
            for check in asked_checks(config, text_changes=sample.edit.caption != sample.caption)
        }
    return {f"score {name}": score(value) + asked.get(name, "") for name, value in sample.scores.items()}


def _stage(name: str, made: Json) -> Iterator[tuple[str, str]]:
    """Yield a stage's provenance, its model (name, revision, digest) first."""
    model = made.get("model") if isinstance(made, dict) else None
    if not isinstance(made, dict) or not isinstance(model, dict) or "name" not in model:
        yield from _flat(name, made)
        return
    yield f"{name} model", _model(model)
    yield from _flat(name, {part: value for part, value in made.items() if part != "model"})


def _model(model: Mapping[str, Any]) -> str:
    parts = [str(model["name"])]
    parts += [f"{part} {model[part]}" for part in ("revision", "digest") if model.get(part)]
    return ", ".join(parts)


def _flat(name: str, value: Json) -> Iterator[tuple[str, str]]:
    """Yield nested JSON as names such as "editor seed" with their values as text; null is left out."""
    if isinstance(value, dict):
        for part, item in value.items():
            yield from _flat(f"{name} {part}".strip(), item)
    elif value is not None:
        yield name, value if isinstance(value, str) else json.dumps(value)
