"""Near-duplicates: on one side of every split, and never trained on where a test set has them."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from cluster.cli.plan_text import plan_lines
from cluster.phases.pipeline import open_run
from engine.errors import RunDirectoryError
from engine.plan.plan import Plan, make_plan
from engine.runfile.data import WardrobeSource
from engine.runfile.run import RunFile
from engine.sources import open_source
from engine.sources.folder import FolderImages

NUM_IMAGES = 120
TWINS = range(0, NUM_IMAGES, 3)


def pictures() -> list[tuple[str, bytes]]:
    source = open_source(WardrobeSource(count=NUM_IMAGES))
    return [(item.class_name, source.read(item)) for item in source.items()]


def again(data: bytes) -> bytes:
    """Return the picture as another program would have saved it."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").resize((100, 100)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of pictures, a third of them there twice: under another name, size and format."""
    for number, (name, data) in enumerate(pictures()):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:03d}.jpg").write_bytes(data)
        if number in TWINS:
            (folder / f"copy-{number:03d}.png").write_bytes(again(data))
    return tmp_path / "images"


def write_test_set(folder: Path, numbers: Sequence[int]) -> dict[str, str]:
    """Write a test set of another seed, into which copies of some training images have come."""
    source = open_source(WardrobeSource(split="heldout", count=40, seed=7))
    found = [(item.class_name, source.read(item)) for item in source.items()]
    copies = pictures()
    for number, (name, data) in enumerate([*found, *((copies[n][0], again(copies[n][1])) for n in numbers)]):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"test-{number}.jpg").write_bytes(data)
    return {"kind": "folder", "path": str(folder)}


def run_of(images: Path, **data: object) -> RunFile:
    return RunFile.model_validate(
        {
            "name": "twins",
            "data": {"train": {"kind": "folder", "path": str(images)}, **data},
            "stages": {"editor": {"kind": "plugin", "target": "a:B"}},
            "probe": {"callable": "a:b"},
        }
    )


def sides(plan: Plan) -> dict[str, str]:
    """Return the split of each image by its file name."""
    return {
        Path(item.locator).name: split
        for name in ("train", "validation", "test")
        for item, split in plan.of_split(name)
    }


def test_a_picture_and_its_copy_fall_in_one_split(images: Path) -> None:
    plan = make_plan(run_of(images))
    found = sides(plan)
    assert len(found) == NUM_IMAGES + len(TWINS)
    assert all(found[f"{number:03d}.jpg"] == found[f"copy-{number:03d}.png"] for number in TWINS)
    assert plan.near_duplicates is not None
    assert (plan.near_duplicates.num_groups, plan.near_duplicates.num_joined) == (len(TWINS), 2 * len(TWINS))
    without = sides(make_plan(run_of(images, near_duplicates="off")))
    assert any(without[f"{number:03d}.jpg"] != without[f"copy-{number:03d}.png"] for number in TWINS)
    # Nothing else moves.
    assert all(found[name] == without[name] for name in without if name[:3].isdigit() and int(name[:3]) not in TWINS)


def test_the_groups_of_the_data_come_along(images: Path, tmp_path: Path) -> None:
    rows = [
        f"{path.relative_to(tmp_path)},{path.parent.name},{place // 4}"
        for place, path in enumerate(sorted(images.rglob("*.*")))
    ]
    (tmp_path / "table.csv").write_text("\n".join(["path,label,group", *rows]) + "\n")
    run = run_of(images)
    table = {"kind": "table", "path": str(tmp_path / "table.csv")}
    plan = make_plan(RunFile.model_validate(run.model_dump() | {"data": {"train": table}}))
    found = sides(plan)
    assert all(found[f"{number:03d}.jpg"] == found[f"copy-{number:03d}.png"] for number in TWINS)
    for start in range(0, len(rows), 4):
        assert len({found[Path(row.split(",")[0]).name] for row in rows[start : start + 4]}) == 1


def test_a_source_that_looks_like_a_test_image_is_left_out_and_said(images: Path, tmp_path: Path) -> None:
    # Pictures 1 and 3: the first is there once, the second twice.
    test = write_test_set(tmp_path / "test", [1, 3])
    plan = make_plan(run_of(images, test=test))
    gone = {"001.jpg", "003.jpg", "copy-003.png"}
    assert not gone & set(sides(plan))
    assert len(sides(plan)) == NUM_IMAGES + len(TWINS) - len(gone)
    assert plan.near_duplicates is not None
    assert plan.near_duplicates.left_out == {"test": 3}
    assert {Path(source).name for source, _ in plan.near_duplicates.left_out_examples["test"]} == gone
    assert "3 sources left out, they look like images of data.test" in "\n".join(plan.near_duplicates.describe())
    assert gone & set(sides(make_plan(run_of(images, test=test, near_duplicates="off"))))


def test_the_plan_stays_as_it_was_where_nothing_looks_alike(images: Path, tmp_path: Path) -> None:
    for copy in images.rglob("copy-*"):
        copy.unlink()
    test = write_test_set(tmp_path / "test", [])
    plan = make_plan(run_of(images, test=test))
    off = make_plan(run_of(images, test=test, near_duplicates="off"))
    assert plan.digest == off.digest
    assert plan.table.equals(off.table)
    assert plan.near_duplicates is not None
    assert plan.near_duplicates.describe() == [
        "near-duplicates: 160 images looked at, 0 too plain or unreadable, none found"
    ]
    assert off.near_duplicates is None


def test_a_run_looks_at_its_images_once(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = run_of(images), str(tmp_path / "run")
    _, first = open_run(run, out)
    monkeypatch.setattr(FolderImages, "read", None)
    rundir, again = open_run(run, out)
    assert again.digest == first.digest
    assert rundir.plan().near_duplicates == first.near_duplicates
    assert "look alike in 40 groups" in "\n".join(plan_lines(run, out)[0])


def test_a_run_of_before_is_told_how_it_goes_on(images: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    open_run(run_of(images, near_duplicates="off"), out)
    with pytest.raises(RunDirectoryError, match=r"data\.near_duplicates: off"):
        open_run(run_of(images), out)


def test_the_wardrobe_s_garments_are_known_exactly_and_not_looked_at() -> None:
    run = run_of(Path("none"))
    wardrobe = {"train": {"kind": "wardrobe", "count": 100}}
    assert make_plan(RunFile.model_validate(run.model_dump() | {"data": wardrobe})).near_duplicates is None


def test_many_that_look_alike_are_a_reason_to_ask(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture = next(images.rglob("*.jpg"))
    for number in range(60):
        (picture.parent / f"frame-{number}.jpg").write_bytes(picture.read_bytes())
    plan = make_plan(run_of(images))
    assert plan.near_duplicates is not None
    assert plan.near_duplicates.largest >= 61
    assert "look alike and are kept in one split" in caplog.text


def test_images_that_cannot_be_read_are_counted_also_where_the_hashes_were_kept(images: Path, tmp_path: Path) -> None:
    first, second, third = sorted(images.rglob("*.jpg"))[:3]
    first.write_bytes(b"")
    second.write_bytes(b"no image")
    third.write_bytes(third.read_bytes()[:300])
    for _ in range(2):
        rundir, plan = open_run(run_of(images), str(tmp_path / "run"))
        assert plan.near_duplicates is not None
        found = plan.near_duplicates.unreadable["train"]
        assert found.num_images == NUM_IMAGES + len(TWINS)
        assert found.reasons == {"empty_file": 1, "unreadable_image": 2}
        assert set(found.examples) == {str(path.relative_to(images)) for path in (first, second, third)}
    assert rundir.plan().near_duplicates == plan.near_duplicates
