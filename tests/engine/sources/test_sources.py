# ruff: noqa: E501  # messages are compared whole, as they are shown
"""Sources: what is listed, which bytes come back, and what is said about input that cannot be used."""

import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from source_files import encoded, folder_of, items_of, listing_error, remarks_of, table, write, write_tar

from engine.runfile.data import AnySource, FolderSource, HuggingFaceSource, TableSource, TarSource, WardrobeSource
from engine.sample import Rejection, Sample
from engine.sources import SourceItem, masked, open_source, read_sample
from engine.sources import rows as rows_module
from engine.sources.item import make_key, make_keys
from engine.sources.table import TableImages


def reread(config: AnySource, item: SourceItem) -> Sample | Rejection:
    """Read an item as an actor does: the source is opened again from its configuration, nothing was listed there."""
    return read_sample(open_source(pickle.loads(pickle.dumps(config))), item, "train")


def one_image(tmp_path: Path, data: bytes, name: str = "cat/1.jpg") -> Sample | Rejection:
    write(tmp_path / name, data)
    config = FolderSource(path=str(tmp_path))
    (item,) = items_of(config)
    return reread(config, item)


def pixels(sample: Sample | Rejection) -> np.ndarray:
    assert isinstance(sample, Sample)
    with Image.open(io.BytesIO(sample.image)) as image:
        assert (image.format, image.mode) == ("JPEG", "RGB")
        return np.asarray(image).astype(int)


# Keys


def test_a_key_is_a_slug_and_a_hash_of_the_path() -> None:
    assert make_key("cats/Long name.0001.JPG") == "cats-long-name-0001-f0b78319"
    assert make_key("cats/a.jpg") != make_key("cats/a.png") != make_key("cats/A.jpg")


def test_keys_of_long_and_foreign_names_stay_short_and_apart() -> None:
    names = ["猫/一.jpg", "猫/二.jpg", "x" * 300 + "a.jpg", "x" * 300 + "b.jpg", "." * 5, "é/\udcff.png"]
    keys = [make_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(len(key) <= 57 and "." not in key and key.isascii() and key == key.lower() for key in keys)


def test_keys_do_not_change_when_files_are_added(tmp_path: Path) -> None:
    before = items_of(folder_of(tmp_path, "cat/1.jpg", "dog/1.jpg"))
    after = items_of(folder_of(tmp_path, "cat/0.jpg", "bird/1.jpg"))
    assert {item.key for item in before} < {item.key for item in after}


ODD_PATHS = (
    "a.jpg", "A b/C_d.PNG", ".jpg", "...", "", "a", "-a-.jpg", "a/b.c/d", "a.b/", "x--y..z.tar.gz", "/", "a\tb.jpg", "a\r.jpg",
    "\u0130/1.jpg", "ΑΣ/Σ.jpg", "猫/1.jpg", "é/\udcff.png", "y" * 40 + ".jpg", "y" * 41 + ".jpg", "0" * 300, "a\x00b.jpg", "a\x7f",
)  # fmt: skip


@pytest.mark.parametrize("paths", [ODD_PATHS, (*ODD_PATHS, "a\nb.jpg"), ("a\nb.jpg",), ("a.jpg",), ()])
def test_keys_that_are_made_together_are_those_made_one_by_one(paths: tuple[str, ...]) -> None:
    assert make_keys(paths) == [make_key(path) for path in paths]


# Folders


def test_a_folder_gives_its_class_folders(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "dog/a/b/2.png", "cat/1.jpg", ".git/x.jpg", "cat/.hidden.jpg")
    assert open_source(config).classes == ("cat", "dog")
    assert [(item.class_name, item.label, item.locator) for item in items_of(config)] == [
        ("cat", 0, "cat/1.jpg"),
        ("dog", 1, "dog/a/b/2.png"),
    ]
    assert all(item.split_key == item.key for item in items_of(config))


def test_class_folders_that_are_numbers_are_in_order_of_number(tmp_path: Path) -> None:
    assert open_source(folder_of(tmp_path, "10/1.jpg", "2/1.jpg", "1/1.jpg")).classes == ("1", "2", "10")


def test_files_that_are_no_images_by_name_are_left_out_and_told(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg", "cat/1.txt", "cat/1.json")
    assert len(items_of(config)) == 1
    said = "2 files are not images by their names and were left out: 'cat/1.json', 'cat/1.txt'"
    assert remarks_of(config) == [said]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    said = f"source folder not found: {tmp_path}/none; correct `path` (it is relative to the run file)"
    assert listing_error(FolderSource(path=f"{tmp_path}/none")) == said
    assert "is a file, `path` needs a folder" in listing_error(FolderSource(path=str(write(tmp_path / "a.jpg"))))
    assert "local or mounted disks" in listing_error(FolderSource(path="s3://bucket/photos"))


def test_a_folder_without_class_folders_says_what_is_expected(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg")
    said = f"{tmp_path} has no class folders: expected {tmp_path}/<class name>/<image>, one folder a class"
    assert listing_error(FolderSource(path=str(tmp_path))) == said


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg", "dog/readme.txt")
    assert listing_error(config).startswith(f"class 'dog' is empty: no image in {tmp_path}/dog; add images (.avif, ")


def test_a_link_to_a_class_folder_is_refused(tmp_path: Path) -> None:
    config = folder_of(tmp_path / "root", "cat/1.jpg")
    (tmp_path / "root/dog").symlink_to(tmp_path)
    assert f"{tmp_path}/root/dog is a symlink to a folder, which is not followed" in listing_error(config)


def test_a_link_out_of_the_root_is_rejected_and_one_inside_is_read(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.jpg")
    config = folder_of(tmp_path / "root", "cat/1.jpg")
    (tmp_path / "root/cat/in.jpg").symlink_to("1.jpg")
    (tmp_path / "root/cat/out.jpg").symlink_to(secret)
    (tmp_path / "root/cat/gone.jpg").symlink_to("nothing.jpg")
    results = {item.locator: reread(config, item) for item in items_of(config)}
    assert isinstance(results["cat/in.jpg"], Sample)
    out, gone = results["cat/out.jpg"], results["cat/gone.jpg"]
    assert isinstance(out, Rejection)
    assert isinstance(gone, Rejection)
    assert (out.stage, out.reason) == ("source", "outside_root")
    assert out.detail == f"cat/out.jpg leads to {secret}, outside of {tmp_path}/root"
    assert gone.reason == "missing_file"


def test_a_folder_that_looks_like_an_image_is_searched_and_a_pipe_is_rejected(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/folder.jpg/1.jpg")
    os.mkfifo(tmp_path / "cat/pipe.jpg")
    results = [reread(config, item) for item in items_of(config)]
    assert [type(result).__name__ for result in results] == ["Sample", "Rejection"]
    assert isinstance(results[1], Rejection)
    assert results[1].reason == "not_a_file"


def test_a_file_name_that_is_not_text_is_rejected(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg")
    with open(os.fsencode(tmp_path) + b"/cat/\xff.jpg", "wb") as file:
        file.write(encoded())
    reasons = {item.locator: reread(config, item) for item in items_of(config)}
    assert isinstance(reasons["cat/1.jpg"], Sample)
    assert isinstance(reasons["cat/\ufffd.jpg"], Rejection)


# Images


def test_a_plain_jpeg_keeps_its_bytes(tmp_path: Path) -> None:
    data = encoded(quality=61)
    sample = one_image(tmp_path, data)
    assert isinstance(sample, Sample)
    assert sample.image == data
    assert (sample.role, sample.key, sample.label, sample.class_name) == ("source", sample.source_key, 0, "cat")
    assert sample.provenance == {"source": "cat/1.jpg"}


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG", progressive=True),
        encoded("JPEG", "CMYK"),
        encoded("JPEG", "L"),
        encoded("PNG"),
        encoded("PNG", "P"),
        encoded("PNG", "1"),
        encoded("PNG", "LA"),
        encoded("WEBP", lossless=True),
        encoded("BMP"),
        encoded("TIFF"),
        encoded("TIFF", compression="tiff_lzw"),
        encoded("GIF", "P"),
        encoded("PPM"),
        encoded("JPEG2000"),
        encoded("TIFF", "CMYK"),
        encoded("TIFF", "F"),
    ],
    ids=lambda data: data[:4].hex(),
)
def test_every_other_image_becomes_a_jpeg_that_looks_the_same(tmp_path: Path, data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("L")).astype(int)
    grey = pixels(one_image(tmp_path, data)) @ [0.299, 0.587, 0.114]
    assert np.abs(grey - expected).mean() < 4


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    assert isinstance(one_image(tmp_path, encoded("PNG"), "cat/1.jpg"), Sample)


def test_16_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    for format_ in ("PNG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(ramp).save(buffer, format_)
        grey = pixels(one_image(tmp_path, buffer.getvalue()))[..., 0]
        assert np.abs(grey - ramp / 257).max() < 4


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    for mode, background in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        buffer = io.BytesIO()
        Image.new(mode, (8, 8), background).save(buffer, "PNG")
        assert pixels(one_image(tmp_path, buffer.getvalue())).min() > 250
    buffer = io.BytesIO()
    Image.new("P", (8, 8), 0).save(buffer, "PNG", transparency=0)
    assert pixels(one_image(tmp_path, buffer.getvalue())).min() > 250


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format_ in ("GIF", "PNG", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, format_, save_all=True, append_images=frames[1:])
        assert pixels(one_image(tmp_path, buffer.getvalue()))[4, 4, 0] > 240


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to show it upright
    data = encoded(size=(16, 8), exif=exif)
    assert pixels(one_image(tmp_path, data)).shape == (16, 8, 3)
    exif[0x0112] = 1
    upright = encoded(size=(16, 8), exif=exif)
    sample = one_image(tmp_path, upright)
    assert isinstance(sample, Sample)
    assert sample.image == upright


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (b"", "empty_file", "cat/1.jpg has 0 bytes"),
        (b"<html>not found</html>", "unreadable_image", "not an image: 22 bytes, starting b'<html>no'"),
        (encoded(size=(64, 64))[:900], "unreadable_image", "damaged JPEG: "),
        (encoded("PNG", size=(64, 64))[:900], "unreadable_image", "damaged PNG: "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unreadable_image", "not an image"),
        (b"P6 20000 20000 255\n" + bytes(9), "too_large", "Image size (400000000 pixels) exceeds limit"),
        (b"P6 10000 10000 255\n" + bytes(9), "too_large", "10000 x 10000 pixels, allowed are at most 89 megapixels"),
        (b"P5 70000 8 255\n" + bytes(560_000), "too_large", "70000 x 8 pixels"),
    ],
)
def test_what_is_no_usable_image_is_rejected_with_the_reason(
    tmp_path: Path, data: bytes, reason: str, detail: str
) -> None:
    rejection = one_image(tmp_path, data)
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason
    assert rejection.detail.startswith(detail)


def test_damaged_bytes_are_rejected_never_raised(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for format_ in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF", "PPM", "TGA"):
        whole = np.frombuffer(encoded(format_, size=(32, 32)), np.uint8)
        for _ in range(60):
            broken = whole.copy()
            broken[rng.integers(0, min(len(whole), 200), 8)] = rng.integers(0, 256, 8)
            assert isinstance(one_image(tmp_path, broken.tobytes()), Sample | Rejection)


# Tables


def test_a_csv_gives_labels_captions_groups_and_attributes(tmp_path: Path) -> None:
    write(tmp_path / "photos/1.jpg")
    rows = (
        ("path", "label", "caption", "group", "camera"),
        ("photos/1.jpg", "dog", "a dog, sitting", "litter 1", "phone"),
        ("photos/2.jpg", "cat", "", "", "film"),
    )
    for config in (
        TableSource(path=table(tmp_path / "a.csv", *rows), attributes=("camera",)),
        TableSource(path=table(tmp_path / "a.tsv", *rows, delimiter="\t"), attributes=("camera",)),
    ):
        dog, cat = items_of(config)
        assert (dog.class_name, dog.label, dog.caption, dog.split_key) == ("dog", 1, "a dog, sitting", "group:litter 1")
        assert (cat.class_name, cat.label, cat.caption, cat.split_key) == ("cat", 0, "", cat.key)
        assert (dog.attributes, cat.attributes) == ({"camera": "phone"}, {"camera": "film"})
        assert isinstance(reread(config, dog), Sample)
        missing = reread(config, cat)
        assert isinstance(missing, Rejection)
        assert missing.detail == f"photos/2.jpg does not exist in {tmp_path}"


def test_a_jsonl_is_read_like_a_csv(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg")
    lines = [{"path": "1.jpg", "label": 1, "group": 7, "camera": 3}, {"path": "2.jpg", "label": 0, "camera": "x"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    config = TableSource(path=f"{tmp_path}/a.jsonl", classes=("cat", "dog"), attributes=("camera",))
    dog, cat = items_of(config)
    assert (dog.class_name, dog.split_key, dog.attributes) == ("dog", "group:7", {"camera": "3"})
    assert (cat.class_name, cat.label) == ("cat", 0)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_table_is_read_in_batches_that_nobody_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    write(tmp_path / "0.jpg")
    rows = [{"path": f"{n}.jpg", "label": f"c{n % 3}", "group": f"g{n}" if n % 4 == 1 else ""} for n in range(23)]
    rows[20]["path"] = "./x//20.jpg"
    lines = [json.dumps(row) for row in rows]
    if suffix == "csv":
        lines = ["path,label,group", *(",".join(row.values()) for row in rows)]
    (tmp_path / f"a.{suffix}").write_text("\n\n".join(lines))
    config = TableSource(path=f"{tmp_path}/a.{suffix}", attributes=("group",))
    whole = list(open_source(config).items())
    assert [item.locator for item in whole] == [f"{n}.jpg" for n in range(20)] + ["x/20.jpg", "21.jpg", "22.jpg"]
    assert [item.label for item in whole] == [n % 3 for n in range(23)]
    assert [item.key for item in whole] == [make_key(item.locator) for item in whole]
    assert [item.split_key for item in whole][:3] == [whole[0].key, "group:g1", whole[2].key]
    monkeypatch.setattr(rows_module, "ROWS_AT_ONCE", 4)
    assert list(open_source(config).items()) == whole
    bad = {"path": "9.jpg", "label": "", "group": ""}
    lines.append(json.dumps(bad) if suffix == "jsonl" else "9.jpg,,")
    (tmp_path / f"a.{suffix}").write_text("\n\n".join(lines))
    said = f"line {2 * len(lines) - 1}: no label for 9.jpg; expected the name or number of a class"
    assert said in listing_error(config)


def test_a_table_in_columns_knows_its_classes_after_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "1.jpg")
    path = table(tmp_path / "a.csv", ("path", "label"), ("1.jpg", "10"), ("2.jpg", "9"), ("3.jpg", "10"))
    source = TableImages(TableSource(path=path))
    (found,) = source.columns()
    assert list(found.class_name) == ["10", "9", "10"]
    monkeypatch.setattr(TableImages, "_rows", lambda _: pytest.fail("the table was read again"))
    assert source.classes == ("9", "10")


def test_a_csv_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    write(tmp_path / "1.jpg")
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfpath, label\r\n1.jpg, cat\r\n")
    assert items_of(TableSource(path=f"{tmp_path}/a.csv"))[0].class_name == "cat"


def test_paths_may_start_from_an_image_folder_but_not_leave_it(tmp_path: Path) -> None:
    write(tmp_path / "images/1.jpg")
    write(tmp_path / "secret.jpg")
    rows = (
        ("path", "label"),
        (f"{tmp_path}/images/1.jpg", "a"),
        ("../secret.jpg", "a"),
        (f"{tmp_path}/secret.jpg", "a"),
    )
    path = table(tmp_path / "a.csv", *rows[:3])
    config = TableSource(path=path, image_folder=f"{tmp_path}/images")
    results = {item.locator: reread(config, item) for item in items_of(config)}
    assert isinstance(results["1.jpg"], Sample)
    outside = results["../secret.jpg"]
    assert isinstance(outside, Rejection)
    assert outside.reason == "outside_root"


def table_error(tmp_path: Path, text: str | bytes, name: str = "a.csv", **options: object) -> str:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    write(tmp_path / "1.jpg")
    return listing_error(TableSource.model_validate({"path": f"{tmp_path}/{name}"} | options)).removeprefix(
        f"{tmp_path}/"
    )


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("file,class\n1.jpg,cat\n", {}, "a.csv has no column 'path': needed are path and label; its columns are 'file', 'class'"),
        ("path,label\n", {"attributes": ("x",)}, "a.csv has no column 'x': `attributes` asks for it; its columns are 'path', 'label'"),
        ("path,label,label\n", {}, "a.csv: column 'label' occurs twice; rename one of the two"),
        ("", {}, "a.csv has no column 'path': needed are path and label; it is empty"),
        ("path,label\n", {}, "a.csv has no rows: expected one row an image with path and label"),
        ("path,label\n1.jpg,a,b\n", {}, "a.csv, line 2: 3 cells, the header has 2; quote cells that hold the separator"),
        ("path,label\n1.jpg,\n", {}, "a.csv, line 2: no label for 1.jpg; expected the name or number of a class"),
        ("path,label\n,cat\n", {}, "a.csv, line 2: no path; expected the name of an image"),
        ("path,label\n1.jpg,cow\n", {"classes": ("cat", "dog")}, "a.csv, line 2: label 'cow' is not one of `classes` ('cat', 'dog') nor a number below 2"),
        ("path,label\n1.jpg,0\n", {"classes": ("cat", "dog")}, "a.csv: no row for class 'dog'; add images or take it out of `classes`"),
        (b"path,label\n\xff.jpg,cat\n", {}, "a.csv is not UTF-8: invalid start byte at byte 11; save it as UTF-8"),
    ],
)  # fmt: skip
def test_a_bad_csv_gets_one_clear_message(
    tmp_path: Path, text: str | bytes, options: dict[str, object], said: str
) -> None:
    assert table_error(tmp_path, text, **options) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{path: 1}\n", 'a.jsonl, line 1: not JSON: Expecting property name enclosed in double quotes at column 2; expected {"path": "a/1.jpg", "label": "cat"}'),
        ("[1]\n", "a.jsonl, line 1: expected an object, got '[1]\\n'"),
        ('{"path": "1.jpg"}\n', "a.jsonl, line 1: no field 'label'; it has 'path'"),
        ('{"path": "1.jpg", "label": true}\n', "a.jsonl, line 1: no label for 1.jpg; expected the name or number of a class"),
    ],
)  # fmt: skip
def test_a_bad_jsonl_gets_one_clear_message(tmp_path: Path, text: str, said: str) -> None:
    assert table_error(tmp_path, text, "a.jsonl") == said


def test_a_table_of_which_no_image_exists_says_where_it_looked(tmp_path: Path) -> None:
    said = table_error(tmp_path, "path,label\nphotos/1.jpg,cat\nphotos/2.jpg,dog\n")
    assert said == (
        f"a.csv: none of its first 2 images exists, for example {tmp_path}/photos/1.jpg; "
        f"paths start from {tmp_path}, or set `image_folder`"
    )


def test_a_missing_or_foreign_table_is_named(tmp_path: Path) -> None:
    assert listing_error(TableSource(path=f"{tmp_path}/no.csv")).startswith(f"table not found: {tmp_path}/no.csv")
    path = str(write(tmp_path / "a.xlsx"))
    assert listing_error(TableSource(path=path)) == f"{path}: a table ends in .csv, .tsv or .jsonl"


# WebDataset


@pytest.mark.parametrize("format_", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_give_labels_and_captions(tmp_path: Path, format_: int) -> None:
    long_name = "x" * (60 if format_ == tarfile.USTAR_FORMAT else 120)
    png = encoded("PNG")
    first = (("a/1.cls", b"1\n"), ("a/1.jpg", encoded()), ("a/1.txt", b"a dog"))
    write_tar(
        tmp_path / "000.tar",
        *first,
        ("a/2.jpg", encoded()),
        ("a/2.json", b'{"label": 0, "caption": "a cat"}'),
        format_=format_,
    )
    info = b'{"label": 1, "group": 4, "camera": "film"}'
    write_tar(
        tmp_path / "001.tar",
        (f"{long_name}.json", info),
        (f"{long_name}.seg.png", png),
        (f"{long_name}.png", png),
        format_=format_,
    )
    config = TarSource(path=str(tmp_path), classes=("cat", "dog"))
    items = {item.caption: item for item in items_of(config)}
    assert {caption: item.class_name for caption, item in items.items()} == {"a dog": "dog", "a cat": "cat", "": "dog"}
    assert items[""].split_key == "group:4"
    assert isinstance(reread(config, items["a dog"]), Sample)
    assert np.abs(pixels(reread(config, items[""])) - np.asarray(Image.open(io.BytesIO(png))).astype(int)).mean() < 4


def test_a_single_tar_and_its_attributes_can_be_named(tmp_path: Path) -> None:
    config = write_tar(tmp_path / "a.tar", ("1.jpg", encoded()), ("1.json", b'{"label": "cat", "camera": "film"}'))
    (item,) = items_of(config.model_copy(update={"attributes": ("camera",)}))
    assert (item.class_name, item.attributes) == ("cat", {"camera": "film"})
    assert "sample 1: no 'lens' in its .json" in listing_error(config.model_copy(update={"attributes": ("lens",)}))


JPG = ("1.jpg", encoded())


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("/etc/1.jpg", encoded()), ("/etc/1.cls", b"0")], "member '/etc/1.jpg' leads out of the tar; names must be relative, without '..'"),
        ([("../1.jpg", encoded())], "member '../1.jpg' leads out of the tar"),
        ([JPG, ("1.cls", b"0"), ("1.pickle", b"x")], "member '1.pickle' may hold a pickle, which can run code; store text and images only"),
        ([JPG, ("1.mask.pth", b"x")], "member '1.mask.pth' may hold a pickle"),
        ([JPG], "sample 1 has no label; expected 1.cls or a \"label\" in 1.json"),
        ([("1.cls", b"0")], "sample 1 has no image; expected 1.jpg, .png, .webp or another image"),
        ([JPG, ("1.png", encoded("PNG")), ("1.cls", b"0")], "sample 1 has two images; expected one a sample"),
        ([JPG, ("1.json", b"{")], "sample 1: its .json: not JSON"),
        ([JPG, ("1.json", b"[]")], "sample 1: its .json is no object"),
        ([JPG, ("2.jpg", encoded()), ("1.cls", b"0")], "sample 2 has no label"),
    ],
)  # fmt: skip
def test_a_bad_tar_gets_one_clear_message(tmp_path: Path, members: list[tuple[str, bytes]], said: str) -> None:
    assert said in listing_error(write_tar(tmp_path / "a.tar", *members))


def test_links_in_tars_are_refused(tmp_path: Path) -> None:
    config = write_tar(tmp_path / "a.tar", JPG, ("1.cls", b"0"))
    with tarfile.open(tmp_path / "a.tar", "a") as tar:
        link = tarfile.TarInfo("2.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "member '2.jpg' is a link or device; expected plain files" in listing_error(config)


@pytest.mark.parametrize("keep", [300, 700, 1300])
def test_a_tar_that_is_cut_off_is_refused(tmp_path: Path, keep: int) -> None:
    config = write_tar(tmp_path / "a.tar", ("1.cls", b"0"), ("1.jpg", encoded(size=(40, 40))))
    os.truncate(tmp_path / "a.tar", keep)
    assert f"{tmp_path}/a.tar" in listing_error(config)


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", b"PK" * 600)
    assert "a.tar is not a whole, uncompressed tar" in listing_error(TarSource(path=str(tmp_path)))
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.jpg"))
    assert "a.tar is not a whole, uncompressed tar" in listing_error(TarSource(path=str(tmp_path)))
    (tmp_path / "a.tar").unlink()
    assert listing_error(TarSource(path=str(tmp_path))).startswith(f"no .tar in {tmp_path}; expected WebDataset tars")


# Hugging Face


@pytest.fixture(scope="module")
def saved_dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    import datasets

    def save(name: str, *, split: str | None = None, **columns: object) -> str:
        path = str(tmp_path_factory.mktemp("hf") / name)
        features = {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "cow", "dog"]),
            "text": datasets.Value("string"),
            "patient": datasets.Value("int64"),
        }
        known = datasets.Features({column: features[column] for column in columns})
        found = datasets.Dataset.from_dict(columns, features=known)
        (found if split is None else datasets.DatasetDict({split: found})).save_to_disk(path)
        return path

    return save


def test_a_hugging_face_dataset_keeps_its_image_bytes(saved_dataset: Callable[..., str]) -> None:
    data = encoded(quality=70)
    images = [{"bytes": data, "path": None}, {"bytes": encoded("PNG"), "path": None}, None]
    path = saved_dataset("a", image=images, label=[2, 0, 2], text=["a dog", "", "x"], patient=[5, 5, 6])
    config = HuggingFaceSource(path=path, caption_column="text", group_column="patient", attributes=("patient",))
    assert open_source(config).classes == ("cat", "dog")
    dog, cat, broken = items_of(config)
    assert (dog.class_name, dog.label, dog.caption, dog.split_key) == ("dog", 1, "a dog", "group:5")
    assert (cat.split_key, cat.attributes) == ("group:5", {"patient": "5"})
    sample = reread(config, dog)
    assert isinstance(sample, Sample)
    assert sample.image == data
    assert isinstance(reread(config, cat), Sample)
    assert isinstance(reread(config, broken), Rejection)


def test_a_bad_hugging_face_dataset_gets_one_clear_message(saved_dataset: Callable[..., str], tmp_path: Path) -> None:
    path = saved_dataset("b", split="train", image=[{"bytes": b"x", "path": None}], label=[0], text=["t"])
    assert listing_error(HuggingFaceSource(path=path)) == f"{path} holds 'train': name one in `split`, got None"
    assert len(items_of(HuggingFaceSource(path=path, split="train"))) == 1
    said = f"{path} has no column 'labels'; its columns are 'image', 'label', 'text'"
    assert listing_error(HuggingFaceSource(path=path, split="train", label_column="labels")) == said
    assert "column 'text' holds" in listing_error(HuggingFaceSource(path=path, split="train", image_column="text"))
    assert "is not a dataset that save_to_disk wrote" in listing_error(HuggingFaceSource(path=str(tmp_path)))


# The wardrobe


def test_the_wardrobe_is_the_same_wherever_it_is_read(tmp_path: Path) -> None:
    config = WardrobeSource(count=40, captions=True)
    items = items_of(config)
    assert len({item.key for item in items}) == 40
    assert items[3].caption.startswith("a photo of ")
    assert set(items[3].attributes) == {"background", "colour"}
    first, second = reread(config, items[3]), reread(config, items[3])
    assert first == second
    assert pixels(first).shape == (64, 64, 3)
    source = open_source(config)
    with Image.open(io.BytesIO(masked(source).mask(items[3]))) as mask:
        opaque = np.asarray(mask) == 255
        clear = np.asarray(mask) == 0
    # A yellow dress on sand: yellow has less than 60 of blue, sand more than 120.
    assert items[3].attributes == {"background": "sand", "colour": "yellow"}
    assert pixels(first)[opaque][:, 2].mean() < 60
    assert pixels(first)[clear][:, 2].mean() > 120


def test_one_garment_has_one_split_key() -> None:
    garments = [item.split_key for item in open_source(WardrobeSource(count=8000)).items()]
    assert len(set(garments)) == 4000
    heldout = {item.split_key for item in open_source(WardrobeSource(split="heldout", count=100)).items()}
    assert not heldout & set(garments)
