import unicodedata
from collections.abc import Mapping
from pathlib import Path

from tint_runs import write_images

from cluster.preflight.words import check_class_words, check_grounds
from engine.errors import RunFileError, SourceError
from engine.plan.plan import make_plan
from engine.runfile.run import RunFile


def remarks(train: Mapping[str, object], perturber: Mapping[str, object], verifier: Mapping[str, object]) -> list:
    run = RunFile.model_validate(
        {
            "name": "words",
            "data": {"train": dict(train), "splits": {"train": 1.0, "validation": 0.0, "test": 0.0}},
            "shards": {"sources_per_shard": 4},
            "stages": {
                "perturber": {"kind": "perturber", "model": {"name": "zoo/perturber"}, **perturber},
                "verifier": {"kind": "verifier", "model": {"name": "zoo/verifier"}, **verifier},
            },
            "probe": {"callable": "tiny_stages:always_first"},
        }
    )
    return list(check_class_words(run, make_plan(run)))


def images(root: Path, name: str) -> dict[str, str]:
    """Return a folder of images of the class `coat` and of another one."""
    write_images(root, per_class=2, bad=0)
    (root / "boot").rename(root / name)
    return {"kind": "folder", "path": str(root)}


def test_a_class_without_a_word_is_said_at_plan(tmp_path: Path) -> None:
    train = images(tmp_path, "n01440764")
    (warning,) = remarks(train, {}, {})
    assert "no caption can name 'n01440764'" in warning
    assert "{n01440764: [tench]}" in warning
    assert remarks(train, {"class_words": {"n01440764": ["tench"]}}, {}) == []
    _, problem = remarks(train, {}, {"min_class": -0.06})
    assert isinstance(problem, RunFileError)
    assert str(problem).startswith("stages.verifier.min_class: 'n01440764' is no word")


def test_words_of_a_class_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (problem,) = remarks(images(tmp_path, "boot"), {"class_words": {"boots": ["boot"]}}, {})
    assert isinstance(problem, RunFileError)
    assert "'boots': no class of the run has this name, it has 'boot', 'coat'" in str(problem)


def test_a_class_in_another_unicode_form_is_the_same(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "café")
    assert remarks(images(tmp_path, name), {"class_words": {"caf\u00e9": ["coffee house"]}}, {}) == []


def test_captions_that_do_not_name_their_class_are_counted_at_plan(tmp_path: Path) -> None:
    write_images(tmp_path / "images", per_class=2, bad=0)
    rows = ["boot/0.jpg,boot,red boots", "boot/1.jpg,boot,a shoe", "coat/0.jpg,coat,a coat", "coat/1.jpg,coat,fabric"]
    (tmp_path / "images" / "table.csv").write_text("\n".join(["path,label,caption", *rows]) + "\n")
    train = {"kind": "table", "path": str(tmp_path / "images" / "table.csv")}
    (warning,) = remarks(train, {}, {})
    assert warning.startswith(
        "2 of the 4 captions of the first shard do not name their class, such as 'a shoe' of 'boot'"
    )
    assert remarks(train, {"class_words": {"boot": ["boot", "shoe"], "coat": "coat, fabric"}}, {}) == []


def ground_remarks(train: Mapping[str, object], grounds: Path) -> list:
    run = RunFile.model_validate(
        {
            "name": "grounds",
            "data": {"train": dict(train), "splits": {"train": 1.0, "validation": 0.0, "test": 0.0}},
            "stages": {
                "perturber": {
                    "kind": "perturber",
                    "edits": {"background": 1},
                    "values": {"background": ["wet sand", "snow", "lava"]},
                },
                "swap": {
                    "kind": "compositor",
                    "method": "swap",
                    "mask_model": {"name": "zoo/segmenter"},
                    "grounds": {"kind": "folder", "path": str(grounds)},
                },
            },
            "probe": {"callable": "tiny_stages:always_first"},
        }
    )
    return list(check_grounds(run, make_plan(run)))


def test_a_value_that_no_ground_is_called_by_is_said_at_plan(tmp_path: Path) -> None:
    grounds = tmp_path / "grounds"
    train = images(tmp_path / "train", "boot")
    (missing,) = ground_remarks(train, grounds)
    assert isinstance(missing, SourceError)
    assert str(missing).startswith("stages.swap.grounds: ")
    write_images(grounds, per_class=2, bad=0)
    (grounds / "boot").rename(grounds / "sand")
    (grounds / "coat").rename(grounds / "snow")
    (unknown,) = ground_remarks(train, grounds)
    assert isinstance(unknown, RunFileError)
    assert "stages.swap.grounds: 'lava' of the perturber's values names no ground" in str(unknown)
    assert "there are 'sand', 'snow'" in str(unknown)
