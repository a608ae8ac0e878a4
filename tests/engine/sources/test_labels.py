"""Labels, groups and attributes of every source: what is missing, what is one name, and who says so."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from source_files import (
    encoded,
    folder_of,
    items_of,
    listing_error,
    remarks_of,
    save_dataset,
    table,
    write,
    write_tar,
)

from engine.plan.listing import list_source
from engine.runfile.data import AnySource, Splits, TableSource
from engine.sources import open_source
from engine.sources.labels import MISSING, name_class, repeated_fields, value_text

COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
NAN = float("nan")


def csv_of(tmp_path: Path, *records: dict[str, object]) -> TableSource:
    """A CSV as pandas writes it: str of each value."""
    for number in range(len(records)):
        write(tmp_path / f"{number}.jpg")
    names = list(records[0])
    rows = [(f"{number}.jpg", *map(record.get, names)) for number, record in enumerate(records)]
    return TableSource(path=table(tmp_path / "a.csv", ("path", *names), *rows))


def jsonl_of(tmp_path: Path, *records: dict[str, object]) -> TableSource:
    lines = []
    for number, record in enumerate(records):
        write(tmp_path / f"{number}.jpg")
        lines.append(json.dumps({"path": f"{number}.jpg", **record}))
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    return TableSource(path=f"{tmp_path}/a.jsonl")


def tar_of(tmp_path: Path, *records: dict[str, object]) -> AnySource:
    members = []
    for number, record in enumerate(records):
        members += [(f"{number}.jpg", encoded()), (f"{number}.json", json.dumps(record).encode())]
    return write_tar(tmp_path / "a.tar", *members)


def dataset_of(tmp_path: Path, *records: dict[str, object]) -> AnySource:
    columns = {name: [record[name] for record in records] for name in records[0]}
    return save_dataset(tmp_path / "saved", **columns)


Make = Callable[..., AnySource]
EVERY = pytest.mark.parametrize("make", [csv_of, jsonl_of, tar_of, dataset_of])
TYPED = pytest.mark.parametrize("make", [jsonl_of, tar_of, dataset_of])


@EVERY
@pytest.mark.parametrize("label", ["nan", "NaN", "None", "null", "NA", "N/A", ""])
def test_a_label_that_means_missing_is_no_class(tmp_path: Path, make: Make, label: str) -> None:
    said = listing_error(make(tmp_path, {"label": "cat"}, {"label": label}))
    where = {csv_of: "a.csv, line 3", jsonl_of: "a.jsonl, line 2", tar_of: "1", dataset_of: "the first is row 1"}[make]
    assert where in said
    assert "label" in said
    if label:
        assert repr(label) in said
        assert "`classes`" in said


@EVERY
@pytest.mark.parametrize("label", ["None", "NA"])
def test_a_class_that_is_called_so_is_named_in_classes(tmp_path: Path, make: Make, label: str) -> None:
    config = make(tmp_path, {"label": "BW"}, {"label": label}).model_copy(update={"classes": ("BW", label)})
    assert [(item.class_name, item.label) for item in open_source(config).items()] == [("BW", 0), (label, 1)]


def test_folders_may_be_called_what_means_missing_elsewhere(tmp_path: Path) -> None:
    assert open_source(folder_of(tmp_path, "NA/1.jpg", "None/1.jpg", "nan/1.jpg")).classes == ("NA", "None", "nan")


@TYPED
@pytest.mark.parametrize("missing", [None, NAN])
def test_a_number_that_is_missing_is_no_class(tmp_path: Path, make: Make, missing: object) -> None:
    said = listing_error(make(tmp_path, {"label": 1.0}, {"label": missing}))
    assert {jsonl_of: "line 2", tar_of: "sample 1", dataset_of: "the first is row 1"}[make] in said
    assert "label" in said


@EVERY
def test_whole_floats_are_integers(tmp_path: Path, make: Make) -> None:
    config = make(tmp_path, *({"label": label} for label in (1.0, 2.0, 1.0, 10.0)))
    assert open_source(config).classes == ("1", "2", "10")
    named = config.model_copy(update={"classes": ("zero", "one", "two", *"3456789", "ten")})
    assert "no row for class 'zero', '3'" in listing_error(named) or "no sample of class 'zero', '3'" in listing_error(
        named
    )


@pytest.mark.parametrize("make", [csv_of, jsonl_of, tar_of])
def test_1_and_1_point_0_are_one_class_and_one_group(tmp_path: Path, make: Make) -> None:
    records = [{"label": 1, "group": 7}, {"label": 1.0, "group": 7.0}, {"label": "1.0", "group": "7.0"}, {"label": "1"}]
    config = make(tmp_path, *records)
    assert [(item.class_name, item.label) for item in items_of(config)] == [("1", 0)] * 4
    assert [item.split_key for item in open_source(config).items()][:3] == ["group:7"] * 3


def test_whole_floats_index_classes(tmp_path: Path) -> None:
    config = csv_of(tmp_path, {"label": "1.0"}, {"label": "0"}).model_copy(update={"classes": ("cat", "dog")})
    assert [item.class_name for item in open_source(config).items()] == ["dog", "cat"]
    versions = csv_of(tmp_path, {"label": "1.0"}, {"label": "1.5"}).model_copy(update={"classes": ("1.0", "1.5")})
    assert open_source(versions).classes == ("1.0", "1.5")


@EVERY
@pytest.mark.parametrize("missing", ["NaN", "None", "null", ""])
def test_images_without_a_group_are_no_group(tmp_path: Path, make: Make, missing: str) -> None:
    config = make(tmp_path, *({"label": "cat", "group": group} for group in (missing, missing, "one", "one")))
    items = list(open_source(config).items())
    assert [item.split_key == item.key for item in items] == [True, True, False, False]
    assert {item.split_key for item in items[2:]} == {"group:one"}


@TYPED
def test_numbers_without_a_group_are_no_group(tmp_path: Path, make: Make) -> None:
    config = make(tmp_path, *({"label": "cat", "group": group} for group in (NAN, NAN, 4.0, 4.0)))
    assert len({item.split_key for item in open_source(config).items()}) == 3


@EVERY
def test_captions_and_attributes_that_are_missing_are_empty(tmp_path: Path, make: Make) -> None:
    records = [{"label": "cat", "caption": text, "camera": text} for text in ("NaN", "None", "film")]
    config = make(tmp_path, *records).model_copy(update={"attributes": ("camera",)})
    if make is dataset_of:
        config = config.model_copy(update={"caption_column": "caption"})
    items = list(open_source(config).items())
    assert [item.caption for item in items] == ["", "", "film"]
    assert [item.attributes["camera"] for item in items] == ["", "", "film"]


@EVERY
def test_names_in_two_unicode_forms_are_one(tmp_path: Path, make: Make) -> None:
    records = [{"label": form, "group": form, "camera": form} for form in (APART, COMPOSED)]
    config = make(tmp_path, *records).model_copy(update={"attributes": ("camera",)})
    items = items_of(config)
    assert [(item.class_name, item.label, item.split_key) for item in items] == [(COMPOSED, 0, f"group:{COMPOSED}")] * 2
    assert [dict(item.attributes) for item in items] == [{"camera": COMPOSED}] * 2


@pytest.mark.parametrize("make", [csv_of, jsonl_of, tar_of, dataset_of])
def test_classes_in_two_unicode_forms_are_refused(tmp_path: Path, make: Make) -> None:
    config = make(tmp_path, {"label": "0"}).model_copy(update={"classes": (APART, COMPOSED)})
    assert f"`classes` holds '{COMPOSED}' twice" in listing_error(config)
    config = config.model_copy(update={"classes": (APART,)})
    assert [item.class_name for item in items_of(config)] == [COMPOSED]


def test_folders_in_two_unicode_forms_are_one_class_with_paths_as_they_are(tmp_path: Path) -> None:
    config = folder_of(tmp_path, f"{APART}/1.jpg", f"{COMPOSED}/1.jpg", "tea/1.jpg")
    items = {item.locator: (item.class_name, item.label) for item in items_of(config)}
    assert items == {f"{APART}/1.jpg": (COMPOSED, 0), f"{COMPOSED}/1.jpg": (COMPOSED, 0), "tea/1.jpg": ("tea", 1)}
    assert remarks_of(config) == [
        f"2 class folders are called '{COMPOSED}', in different Unicode forms: they are one class"
    ]


def test_a_listing_has_one_label_for_two_unicode_forms(tmp_path: Path) -> None:
    listing = list_source(open_source(csv_of(tmp_path, {"label": APART}, {"label": COMPOSED})), Splits(), 0)
    assert listing.label.tolist() == [0, 0]


@pytest.mark.parametrize("make", [csv_of, jsonl_of, tar_of])
@pytest.mark.parametrize(("written", "asked"), [(APART, COMPOSED), (COMPOSED, APART)])
def test_columns_are_found_in_either_unicode_form(tmp_path: Path, make: Make, written: str, asked: str) -> None:
    config = make(tmp_path, {"label": "cat", written: "tea"}).model_copy(update={"attributes": (asked,)})
    assert [dict(item.attributes) for item in items_of(config)] == [{asked: "tea"}]


def test_names_of_a_class_label_are_composed(tmp_path: Path) -> None:
    import datasets

    config = save_dataset(tmp_path / "saved", label=(datasets.ClassLabel(names=["NA", APART]), [1, 0]))
    assert open_source(config).classes == ("NA", COMPOSED)
    assert [item.class_name for item in items_of(config)] == [COMPOSED, "NA"]


def test_a_class_label_without_a_value_is_missing(tmp_path: Path) -> None:
    import datasets

    config = save_dataset(tmp_path / "saved", label=(datasets.ClassLabel(names=["a", "b"]), [1, -1, -1]))
    assert "column 'label' has 2 rows without a label (-1 count as missing), the first is row 1" in listing_error(
        config
    )
    config = save_dataset(tmp_path / "numbers", label=[1.0, None, NAN, 2.0])
    assert "has 2 rows without a label (None, nan count as missing), the first is row 1" in listing_error(config)


def test_several_labels_an_image_are_refused(tmp_path: Path) -> None:
    assert "column 'label' holds List" in listing_error(dataset_of(tmp_path, {"label": ["a", "b"]}))
    assert "line 1: label is ['a', 'b'], expected the name" in listing_error(jsonl_of(tmp_path, {"label": ["a", "b"]}))
    assert "sample 0 has no label, \"['a', 'b']\" is none" in listing_error(tar_of(tmp_path, {"label": ["a", "b"]}))


def test_leading_zeros_make_two_names_and_are_told(tmp_path: Path) -> None:
    config = csv_of(tmp_path, {"label": "007"}, {"label": "7"}, {"label": "8"})
    assert open_source(config).classes == ("007", "7", "8")
    assert remarks_of(config) == ["classes '007', '7' are different names of one number: are they one class?"]


def test_missing_is_what_pandas_takes_for_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for text in [*sorted(MISSING), "none", "Null", "nil", "0", "na", "x"]:
        (tmp_path / "a.csv").write_text(f"label,other\n{text},1\n")
        assert bool(pandas.read_csv(tmp_path / "a.csv").label.isna()[0]) == (text in MISSING), text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((1, "1"), (1.0, "1"), (-0.0, "0"), (1.5, "1.5"), (1e300, "1e+300"), (NAN, ""), (float("inf"), "")),
        *((None, ""), (True, ""), ([1], ""), (" a ", "a"), (2**70, str(2**70))),
    ],
)
def test_values_as_text(value: object, text: str) -> None:
    assert value_text(value) == text


def test_labels_that_are_no_numbers_stay() -> None:
    names = ["1.0.0", "v1.0", "1.", "1e0", "١.0", "None of these", "none"]
    assert [name_class(name, (), "here") for name in names] == names


def test_fields_that_part_images_into_groups_of_one_are_no_attributes() -> None:
    records = [
        {"id": number, "camera": number % 2, "boxes": [], "rare": number if number < 3 else None}
        for number in range(60)
    ]
    assert repeated_fields(records) == ("camera",)
