"""The estimate: what a run will take, and on what grounds it is said."""

from pathlib import Path

import pytest

from engine.plan.estimate import Estimate, describe, estimate_run, measure
from engine.plan.plan import Plan, make_plan
from engine.runfile.run import RunFile
from engine.shards.marker import Counts, FileRecord, Marker

GPU = {"num_gpus": 1, "replicas": [1, 4]}


def run_of(**changes: object) -> RunFile:
    stages = {
        "captioner": {"kind": "captioner", "model": {"name": "Salesforce/blip-image-captioning-base"}},
        "perturber": {"kind": "perturber", "model": {"name": "Qwen/Qwen3-4B"}, "edits": {"background": 2, "colour": 1}},
        "editor": {"kind": "editor", "model": {"name": "timbrooks/instruct-pix2pix"}, "placement": GPU},
        "verifier": {"kind": "verifier", "model": {"name": "openai/clip-vit-base-patch32"}},
    }
    source = {"kind": "wardrobe", "count": 200}
    run = {
        "name": "demo",
        "data": {"train": source, "num_sources": 40, "num_validation_sources": 8},
        "stages": stages,
        "probe": {"callable": "a:b"},
        "report": {"gpu_price_per_hour": 3},
    }
    return RunFile.model_validate(run | changes)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(run_of())


def seconds_of(estimate: Estimate) -> dict[str, float | None]:
    return {stage.name: stage.seconds for stage in estimate.stages}


def marker_of(shard: int, seconds: dict[str, float]) -> Marker:
    return Marker(
        shard=shard,
        plan="p",
        files={
            f"shards/{shard:06d}.tar": FileRecord(blake3="", bytes=100_000, samples=25),
            f"rejected/{shard:06d}.tar": FileRecord(blake3="", bytes=50_000, samples=25),
            f"shards/{shard:06d}.parquet": FileRecord(blake3="", bytes=9_000, samples=40),
        },
        counts=Counts(sources=10, placebos=8, rejected_placebos=2, candidates=30, accepted=15, rejected={"text": 15}),
        keys=None,
        seconds=seconds,
        versions={},
    )


def test_numbers_of_samples_are_exact(plan: Plan) -> None:
    estimate = estimate_run(run_of(), plan)
    assert (estimate.num_shards, estimate.num_sources, estimate.num_edits, estimate.num_placebos) == (3, 48, 144, 48)
    assert estimate.num_images == 240
    samples = {stage.name: stage.num_samples for stage in estimate.stages}
    assert samples == {"captioner": 48, "perturber": 48, "editor": 192, "verifier": 192}


def test_without_shards_times_are_guesses_by_model_family(plan: Plan) -> None:
    estimate = estimate_run(run_of(), plan)
    assert estimate.basis == "guess"
    editor = seconds_of(estimate)["editor"]
    assert editor is not None
    # 3 rows x 20 steps x 0.8 TFLOP at 100 TFLOP/s: 0.48 s an image.
    assert editor / 192 == pytest.approx(0.48)
    assert estimate.cost == pytest.approx(3 * estimate.gpu_hours)
    # Editor and verifier share the editor's GPU, at most four of them.
    verifier = seconds_of(estimate)["verifier"]
    assert verifier is not None
    assert estimate.gpu_hours * 3600 == pytest.approx(editor + verifier)


@pytest.mark.parametrize(
    ("name", "method", "tflop"),
    [
        ("black-forest-labs/FLUX.1-dev", "img2img", 20 * 0.6 * 74),
        ("black-forest-labs/FLUX.1-Kontext-dev", "instruct", 20 * 165),
        ("black-forest-labs/FLUX.2-klein-4B", "instruct", 20 * 77),
        ("black-forest-labs/FLUX.2-dev", "instruct", 20 * 583),
        ("stabilityai/stable-diffusion-3.5-large", "img2img", 2 * 20 * 0.6 * 31),
        ("Qwen/Qwen-Image", "img2img", 2 * 20 * 0.6 * 71),
        ("Qwen/Qwen-Image-Edit", "instruct", 2 * 20 * 164),
        ("stabilityai/stable-diffusion-xl-base-1.0", "img2img", 2 * 20 * 0.6 * 6.9),
    ],
)
def test_an_edit_costs_what_its_family_s_steps_cost(name: str, method: str, tflop: float, plan: Plan) -> None:
    editor = {"kind": "editor", "method": method, "model": {"name": name}, "placement": GPU}
    estimate = estimate_run(run_of(stages={**run_of().model_dump()["stages"], "editor": editor}), plan)
    seconds = seconds_of(estimate)["editor"]
    assert seconds is not None
    assert seconds / 192 == pytest.approx(tflop / 100)
    # Pictures of 1024 * 1024 pixels.
    assert estimate.size_bytes == round(240 * (1024 * 1024 * 0.5 + 2500))


def test_an_unknown_model_has_no_time_rather_than_a_made_up_one(plan: Plan) -> None:
    run = run_of(stages={"mine": {"kind": "plugin", "target": "a:B"}})
    estimate = estimate_run(run, plan)
    assert seconds_of(estimate) == {"mine": None}
    assert (estimate.basis, estimate.gpu_hours) == ("unknown", 0)
    assert "time not known" in "\n".join(describe(estimate))


def test_the_edits_of_a_stage_of_ones_own_are_unknown_until_a_shard_is_done(plan: Plan) -> None:
    plugin = {"kind": "plugin", "target": "a:B"}
    run = run_of(stages={"mine": plugin, "judge": plugin})
    estimate = estimate_run(run, plan)
    assert (estimate.num_edits, estimate.num_images) == (None, 48)
    assert [stage.num_samples for stage in estimate.stages] == [48, None]
    text = "\n".join(describe(estimate))
    assert "images      not known before the first shard" in text
    assert "storage     at least" in text
    measured = measure(run, {0: marker_of(0, {"mine": 5.0})})
    estimate = estimate_run(run, plan, measured)
    # 30 candidates, 8 placebos and 2 rejected ones of 10 sources.
    assert (estimate.num_edits, estimate.num_images) == (192, 240)
    assert "images      240" in "\n".join(describe(estimate))


def test_after_the_first_shards_times_are_measured(plan: Plan) -> None:
    taken = {"captioner": 1.0, "perturber": 4.0, "editor": 40.0, "verifier": 2.0}
    measured = measure(run_of(), {shard: marker_of(shard, taken) for shard in (0, 1)})
    assert measured is not None
    assert measured.seconds == pytest.approx({"captioner": 0.1, "perturber": 0.4, "editor": 1.0, "verifier": 0.05})
    estimate = estimate_run(run_of(), plan, measured)
    assert estimate.basis == "measured"
    assert seconds_of(estimate)["editor"] == pytest.approx(192)
    assert estimate.size_bytes == 240 * 3000
    assert estimate.wall_hours * 3600 == pytest.approx((192 + 9.6) / 4)


def test_without_markers_nothing_is_measured() -> None:
    assert measure(run_of(), {}) is None


def test_the_description_says_what_is_a_guess(plan: Plan) -> None:
    text = "\n".join(describe(estimate_run(run_of(), plan)))
    assert "images      240 (144 edits, 48 placebos)" in text
    assert "(guess)" in text
    assert "Guessed times are FLOPs at 100 TFLOP/s" in text


def test_the_time_of_a_stage_does_not_depend_on_the_price(plan: Plan, tmp_path: Path) -> None:
    estimate = estimate_run(run_of(report={}), plan)
    assert estimate.cost is None
    assert not any(line.startswith("cost") for line in describe(estimate))
