"""A later turn is drawn on the picture of the turn before, from noise that its placebo shares."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from edits import editor, group
from tiny_models import save_clipseg
from tiny_pipelines import save_flux_kontext, save_stable_diffusion, save_stable_diffusion_xl

from actors.models.device import fix_threads
from engine.runfile.fields import ModelConfig
from engine.sample import Edit, Rejection, Sample, content_seed, turn_key

RED = Edit(kind="colour", before="red", after="blue", instruction="make it blue", caption="a blue sneaker on 0")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


def two_turns(key: str, **changes: object) -> list[Sample]:
    """Return a source, its placebo and its edit, and each of both once more with a second turn."""
    source, placebo, edit = group(key, **changes)
    assert placebo.edit is not None
    assert edit.edit is not None
    return [
        source,
        placebo,
        replace(placebo, key=turn_key(placebo.key, 2), edit=replace(placebo.edit, turn=2)),
        edit,
        replace(edit, key=turn_key(edit.key, 2), edit=edit.edit.then(replace(RED, severity=edit.edit.severity))),
    ]


PIPELINES: list[tuple[Callable[[Path], Path], dict[str, object]]] = [
    (lambda folder: save_stable_diffusion(folder, "instruct"), {"method": "instruct", "keep_detail": True}),
    (lambda folder: save_stable_diffusion(folder, "img2img"), {"method": "img2img", "scheduler": "DDIMScheduler"}),
    (
        lambda folder: save_stable_diffusion(folder, "img2img"),
        {"method": "img2img", "scheduler": "DDIMScheduler", "inversion": True},
    ),
    (lambda folder: save_stable_diffusion(folder, "inpaint"), {"method": "inpaint"}),
    (save_flux_kontext, {"method": "instruct", "size": 32, "keep_detail": True}),
]


@pytest.mark.parametrize(("save", "changes"), PIPELINES, ids=["instruct", "img2img", "inversion", "inpaint", "kontext"])
def test_a_second_turn_is_an_edit_of_the_first_one_s_picture(
    save: Callable[[Path], Path], changes: dict[str, object], tmp_path: Path
) -> None:
    if changes["method"] == "inpaint":
        changes = {**changes, "mask_model": ModelConfig(name=str(save_clipseg(tmp_path / "clipseg")))}
    stage = editor(save(tmp_path / "model"), **changes)
    batch = [*two_turns("a"), *two_turns("b")]
    found = {item.key: item for item in stage(batch) if isinstance(item, Sample)}
    assert len(found) == len(batch)
    source, placebo, placebo_again, edit, both = (found[sample.key] for sample in two_turns("a"))
    assert len({bytes(item.image) for item in (source, placebo, placebo_again, edit, both)}) == 5
    # Alone, and on a source that looks as the first turn does, it is the same picture.
    alone = {item.key: item for item in stage([source, edit, replace(both, image=b"")]) if isinstance(item, Sample)}
    assert alone[both.key] == both
    assert both.edit is not None
    assert edit.edit is not None
    assert both.edit.kind == "background+colour"
    stand_in = replace(source, key="c", source_key="c", image=edit.image, caption=edit.edit.caption)
    change = replace(stand_in, key="c_cf00", role="counterfactual", image=b"", edit=replace(RED))
    seed = both.provenance["editor"]["seed"]  # type: ignore[index, call-overload]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actors.editor.editor.content_seed", lambda *_: seed)
        (_, redrawn) = stage([stand_in, change])
    assert isinstance(redrawn, Sample)
    assert redrawn.image == both.image


def test_noise_is_shared_by_the_edits_of_a_turn_and_by_no_other_turn(tmp_path: Path) -> None:
    stage = editor(save_stable_diffusion(tmp_path / "model", "instruct"))
    found = [item for item in stage(two_turns("a")) if isinstance(item, Sample) and item.edit]
    seeds = [item.provenance["editor"]["seed"] for item in found]  # type: ignore[index, call-overload]
    assert seeds == [content_seed(11, key) for key in ("a", "a_t2", "a", "a_t2")]


def test_a_turn_behind_a_picture_that_failed_is_given_up(tmp_path: Path) -> None:
    stage = editor(save_stable_diffusion_xl(tmp_path / "model", "instruct"), guidance_scale=1.0)
    _, placebo, placebo_again, edit, both = stage(two_turns("a", severity=0.5))
    assert isinstance(placebo, Sample)
    assert isinstance(placebo_again, Sample)
    assert isinstance(edit, Rejection)
    assert isinstance(both, Rejection)
    assert (edit.reason, both.reason, both.stage) == ("no_severity", "no_turn_before", "editor")
