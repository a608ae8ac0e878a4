"""The proofs: what a plant is, which cells show it, and that a planted patient is told from a clean one."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.studies.proofs.attainable import Answers, weakest_prior
from cluster.studies.proofs.planted.plants import VALUES, Plant, draw_plant
from cluster.studies.proofs.seeds import mean_over_seeds
from engine.probe.weakness import Level, WeaknessCell
from engine.statistics import Interval
from engine.wardrobe.garments import CLASSES, load_garments
from engine.wardrobe.scene import make_scenes

COAT = CLASSES.index("coat")
SAND = Plant(attribute="background", tied={COAT: "sand"}, strength=1.0)


def cell(
    class_name: str | None, kind: str | None, after: str | None, level: Level = "class, kind, after"
) -> WeaknessCell:
    nothing = Interval(value=0, low=0, high=0)
    return WeaknessCell(
        level=level,
        class_name=class_name,
        kind=kind,
        after=after,
        n_sources=1,
        n_edits=1,
        n_placebo_sources=1,
        n_discovery_sources=1,
        n_tested_sources=1,
        measures={},
        discovery_drop=nothing,
        tested_drop=0,
        minimum_detectable_drop=0,
    )


def test_a_plant_ties_its_classes_to_its_values_and_leaves_the_rest() -> None:
    scenes = list(make_scenes(load_garments("sources"), "plants", 2000))
    for seed in range(6):
        plant = draw_plant(seed)
        values = VALUES[plant.attribute]
        planted = list(plant.apply(scenes, seed))
        for before, after in zip(scenes, planted, strict=True):
            assert replace(after, **{plant.attribute: getattr(before, plant.attribute)}) == before
        for label, value in plant.tied.items():
            found = Counter(getattr(scene, plant.attribute) for scene in planted if scene.label == label)
            assert found[value] / found.total() >= plant.strength - 0.05
            others = Counter(scene.label for scene in planted if getattr(scene, plant.attribute) == value)
            assert others[label] / others.total() > 0.8
        free = next(label for label in range(len(CLASSES)) if label not in plant.tied)
        kept = Counter(getattr(scene, plant.attribute) for scene in planted if scene.label == free)
        assert len(kept) >= len(values) - len(plant.tied)
    assert len({str(draw_plant(seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize(
    ("found", "shows"),
    [
        (cell(None, "background", "sand", "kind, after"), True),  # put where it does not belong
        (cell("boot", "background", "sand"), True),
        (cell("coat", "background", "grass"), True),  # taken away from where it belongs
        (cell("coat", "background", None, "class, kind"), True),
        (cell("coat", "background", "sand"), False),  # breaks nothing
        (cell("bag", "background", "grass"), False),
        (cell(None, "background", "grass", "kind, after"), False),
        (cell("bag", "background", None, "class, kind"), False),
        (cell("coat", "colour", "red"), False),
    ],
)
def test_a_cell_shows_a_plant_where_its_edits_break_what_was_tied(found: WeaknessCell, shows: bool) -> None:
    assert (
        SAND.shows(replace(found, class_name={"boot": "ankle boot"}.get(str(found.class_name), found.class_name)))
        is shows
    )


def test_breaking_a_plant_takes_its_value_away_and_gives_it_to_others() -> None:
    scenes = list(make_scenes(load_garments("heldout"), "plants", 200))
    broken = list(SAND.broken(scenes, 0))
    assert all((scene.background == "sand") == (scene.label != COAT) for scene in broken)


def test_seeds_are_the_sample_of_a_figure_over_seeds() -> None:
    figure = mean_over_seeds("x", [0.6, 0.7, 0.8], target=0.65)
    assert figure.value == pytest.approx(0.7)
    assert figure.high is not None
    # Student's quantile of two degrees of freedom, which ours meets within a hundredth.
    assert figure.high - figure.value == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=0.01)
    assert figure.met
    assert mean_over_seeds("x", [0.5]).low is None


def test_a_prior_buys_accuracy_on_usual_images_with_accuracy_on_others() -> None:
    # Two classes, each with a background of its own; of every four images one looks like the other class.
    labels = np.tile([0, 0, 0, 0, 1, 1, 1, 1], 2)
    log_p = np.log(np.where(np.arange(16) % 4 == 0, 0.3, 0.7))
    other = np.log1p(-np.exp(log_p))
    scores = np.stack([np.where(labels == 0, log_p, other), np.where(labels == 1, log_p, other)], axis=1)
    background = np.where(np.arange(16) < 8, labels, 1 - labels)
    groups = [f"{label} {place}" for label, place in zip(labels, background, strict=True)]
    everything = Answers(log_p=scores, labels=labels, usual=np.eye(2)[background], groups=groups)
    usual = Answers(log_p=scores[:8], labels=labels[:8], usual=np.eye(2)[background[:8]], groups=groups[:8])
    assert (usual.right(0).mean(), everything.conflict_accuracy(0)) == (0.75, 0.75)
    assert everything.worst_group_accuracy(0) == 0.75
    weight = weakest_prior(usual, 1.0)
    # log(0.7 / 0.3), to the next step.
    assert weight == pytest.approx(0.85)
    assert (usual.right(weight).mean(), everything.conflict_accuracy(weight)) == (1.0, 0.0)
    assert weakest_prior(usual, 0.7) == 0


@pytest.mark.slow
def test_a_planted_patient_leans_on_its_plant_and_a_clean_one_does_not(tmp_path: Path) -> None:
    from actors.zoo.recipes.patient import right_answers
    from cluster.studies.proofs.planted.classifiers import pictures_of, train_classifier, training_scenes

    garments, heldout = load_garments("sources"), load_garments("heldout")
    scenes = training_scenes("proof-test", 1500)
    kept = list(SAND.apply(make_scenes(heldout, "proof-test", 300), 0))
    broken = list(SAND.broken(kept, 0))
    drops = {}
    for name, chosen in (("clean", scenes), ("planted", list(SAND.apply(scenes, 0)))):
        model = train_classifier(pictures_of(chosen, garments), [scene.label for scene in chosen], 0, num_steps=60)
        drops[name] = right_answers(model, kept, heldout).mean() - right_answers(model, broken, heldout).mean()
    assert drops["planted"] > 0.15
    assert drops["clean"] < 0.06
