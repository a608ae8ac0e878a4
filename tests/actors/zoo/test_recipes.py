"""How the zoo learns: pictures rendered once, batches of edits, and guidance taught to one row of the UNet."""

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.zoo.recipes import edit_pairs
from actors.zoo.recipes import editor as train_editor
from actors.zoo.recipes.editor import EditBatches, guided_velocity, make_editor, velocity
from actors.zoo.recipes.patient import CLASSIFIERS
from actors.zoo.recipes.training.loop import TrainContext
from actors.zoo.recipes.training.pictures import rendered
from actors.zoo.recipes.vae import LATENT_CHANNELS
from engine.errors import RunError
from engine.wardrobe.garments import load_garments
from engine.wardrobe.scene import make_scenes


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> EditBatches:
    """A few families, and noise for their latents."""
    monkeypatch.setattr(edit_pairs, "NUM_FAMILIES", 6)
    monkeypatch.setattr(edit_pairs, "NUM_GARMENT_FAMILIES", 4)
    families = edit_pairs.editor_families(load_garments("sources"))
    shape = len(families) * edit_pairs.FAMILY, LATENT_CHANNELS, 16, 16
    latents = np.random.default_rng(0).standard_normal(shape).astype(np.float16)
    return EditBatches(families, latents, torch.device("cpu"))


def test_a_batch_follows_from_its_seed(batches: EditBatches) -> None:
    first, again, other = (batches.draw((0, step), torch.Generator().manual_seed(step)) for step in (3, 3, 4))
    assert torch.equal(first.noisy, again.noisy)
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, other.tokens)
    assert set(first.kinds) <= set(edit_pairs.SHARES)


def test_a_source_is_hidden_or_a_prompt_empty_only_where_the_batch_says_it_is_not_complete(
    batches: EditBatches,
) -> None:
    batch = batches.draw((0, 0), torch.Generator().manual_seed(0))
    hidden = (batch.source == 0).all(dim=(1, 2, 3)).numpy()
    told = (batch.tokens != batches.tokens([""])).any(dim=1).numpy()
    assert np.array_equal(batch.complete, ~hidden & told)
    assert 0 < batch.complete.sum() < len(batch.complete)


def test_the_target_is_the_teacher_s_guided_answer_for_guided_kinds_and_the_truth_for_others(
    batches: EditBatches,
) -> None:
    torch.manual_seed(0)
    teacher = make_editor(batches.tokenizer).eval()
    batch = batches.draw((0, 0), torch.Generator().manual_seed(0))
    found = guided_velocity(batches, teacher, batch)
    guided = batch.complete & np.isin(batch.kinds, train_editor.GUIDED_KINDS)
    assert 0 < guided.sum() < len(guided)
    assert torch.equal(found[~guided], batch.velocity[~guided])
    row = np.flatnonzero(guided)[:1]
    with torch.no_grad():
        told = batches.predict(teacher, batch.of(row))
        untold = velocity(teacher, batch.of(row), teacher["text"](batches.tokens([""]))[0])
    expected = untold + train_editor.GUIDANCE_SCALE * (told - untold)
    torch.testing.assert_close(found[row], expected, atol=1e-4, rtol=1e-4)


def test_pictures_are_rendered_once_and_never_taken_for_those_of_other_scenes(tmp_path: Path) -> None:
    garments, path = load_garments("sources"), tmp_path / "biased.npy"
    biased, balanced = (list(make_scenes(garments, "sources", 8, correlation=each)) for each in (1.0, None))
    first = rendered(path, biased, garments)
    assert np.array_equal(rendered(path, biased, garments), first)
    assert len(list(tmp_path.iterdir())) == 1
    assert not np.array_equal(rendered(path, balanced, garments), first)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_starts_from_what_was_pretrained_with_a_head_of_its_own(name: str, tmp_path: Path) -> None:
    classifier = CLASSIFIERS[name]
    torch.manual_seed(1)
    multi_head = classifier.multi_head()
    context = TrainContext(folder=tmp_path, device=torch.device("cpu"), fashion_mnist=tmp_path)
    with pytest.raises(RunError, match=f"--only {classifier.pretraining.name}`"):
        classifier.pretrained(context)
    torch.save({"step": 3, "average": multi_head.state_dict()}, tmp_path / f"{classifier.pretraining.name}.pt")
    model = classifier.pretrained(context)
    for key, value in multi_head.backbone.state_dict().items():
        assert torch.equal(model.base_model.state_dict()[key], value)
    assert model.config.num_labels == 10
