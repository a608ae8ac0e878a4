"""Tables as spreadsheets and Windows leave them, and images that are not there."""

from pathlib import Path

import pytest
from source_files import items_of, listing_error, table, write

from engine.errors import SourceError
from engine.runfile.data import FolderSource, TableSource
from engine.sources import UnreadableItemError, masked, missing_files, open_source
from engine.sources.item import make_key
from engine.sources.presence import absent_files


def source(tmp_path: Path, text: str | bytes, name: str = "a.csv", **options: object) -> TableSource:
    write(tmp_path / "1.jpg")
    write(tmp_path / "2.jpg")
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return TableSource.model_validate({"path": f"{tmp_path}/{name}"} | options)


def labels(config: TableSource) -> dict[str, str]:
    return {item.locator: item.class_name for item in items_of(config)}


def error(tmp_path: Path, text: str | bytes, name: str = "a.csv") -> str:
    return listing_error(source(tmp_path, text, name)).removeprefix(f"{tmp_path}/")


def test_paths_from_windows_are_read_with_slashes(tmp_path: Path) -> None:
    write(tmp_path / "photos/a/1.jpg")
    odd = write(tmp_path / "photos\\a\\2.jpg")
    rows = [("photos\\a\\1.jpg", "cat"), (odd.name, "dog"), (".\\photos\\a\\3.jpg", "cat")]
    config = TableSource(path=table(tmp_path / "a.csv", ("path", "label"), *rows))
    found = {item.locator: item.key for item in open_source(config).items()}
    assert found["photos/a/1.jpg"] == make_key("photos/a/1.jpg")
    assert odd.name in found
    assert missing_files(config, found) == [".\\photos\\a\\3.jpg"]


def test_missing_images_are_counted_by_looking_once_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{number % 3}/{number}.jpg" for number in range(600)]
    for path in paths[:550]:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "0/600.jpg").mkdir()
    (tmp_path / "0/603.jpg").symlink_to(tmp_path / "none.jpg")
    (tmp_path / "0/606.jpg").symlink_to("0.jpg")
    paths += ["0/600.jpg", "0/603.jpg", "0/606.jpg", "4/x.jpg", "../y.jpg"]
    config = TableSource(path=table(tmp_path / "a.csv", ("path", "label"), *((path, "cat") for path in paths)))
    looked: list[str] = []
    is_file = absent_files.__globals__["os"].path.isfile
    monkeypatch.setattr("engine.sources.presence.os.path.isfile", lambda path: looked.append(path) or is_file(path))
    expected = sorted([*paths[550:600], "0/600.jpg", "0/603.jpg", "4/x.jpg", "../y.jpg"])
    assert missing_files(config, paths) == expected
    assert len(looked) < len(expected) + 5
    assert missing_files(FolderSource(path=str(tmp_path)), paths) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, encoding: str) -> None:
    text = "path\tlabel\t\t\r\n1.jpg\tcafé\t\t\r\n\t\t\t\r\n2.jpg\ttea\t\t\t\r\n \r\n"
    assert labels(source(tmp_path, text.encode(encoding), "a.tsv")) == {"1.jpg": "café", "2.jpg": "tea"}


def test_cells_with_line_breaks_are_one_row(tmp_path: Path) -> None:
    config = source(tmp_path, 'path,label,caption\n1.jpg,cat,"a\n""big"" cat"\n\n2.jpg,dog,"a dog"\n')
    assert [item.caption for item in open_source(config).items()] == ['a\n"big" cat', "a dog"]
    assert labels(config) == {"1.jpg": "cat", "2.jpg": "dog"}


@pytest.mark.parametrize(
    "rows",
    [
        '1.jpg,cat,a cat\n2.jpg,dog,"a dog\n3.jpg,dog,a dog\n4.jpg,dog,a dog\n',
        '1.jpg,cat,a cat\n2.jpg,dog,"a dog\n3.jpg,dog,"a dog"\n4.jpg,dog,a dog\n',
    ],
)
def test_a_quote_that_swallows_rows_is_refused(tmp_path: Path, rows: str) -> None:
    said = error(tmp_path, "path,label,caption\n" + rows)
    assert said.startswith("a.csv, line 3: a quote that opens here takes in the lines up to ")


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("path;label\n1.jpg;cat\n", "a.csv", "a.csv: its cells are separated by semicolons, expected are commas"),
        ("path\tlabel\n1.jpg\tcat\n", "a.csv", "a.csv: its cells are separated by tabs, expected are commas"),
        ("path,label\n1.jpg,cat\n", "a.tsv", "a.tsv: its cells are separated by commas, expected are tabs"),
        ("Path,Label\n1.jpg,cat\n", "a.csv", "its columns are 'Path', 'Label': write 'Path' as 'path'"),
        ('{"path": "1.jpg", "label": "a", "label": "b"}', "a.jsonl", "a.jsonl, line 1: it has 'label' twice"),
        ("path,label\n1.jpg,nan\n", "a.csv", "a.csv, line 2: label 'nan' counts as missing: give one, or list every"),
        ("path,label\n\n1.jpg,cat\n2.jpg\n", "a.csv", "a.csv, line 4: 1 cells, the header has 2"),
        ("path,label\n".encode("utf-16") + b"\x00", "a.csv", "a.csv is not UTF-16: "),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(tmp_path: Path, text: str | bytes, name: str, said: str) -> None:
    found = error(tmp_path, text, name)
    assert said in found
    assert "\n" not in found


def test_nested_fields_may_have_the_names_of_outer_ones(tmp_path: Path) -> None:
    text = '{"path": "1.jpg", "label": "a: b", "box": {"label": "x", "label": "y"}}'
    assert labels(source(tmp_path, text, "a.jsonl")) == {"1.jpg": "a: b"}


def test_a_field_that_some_rows_lack_is_missing_there_and_one_that_all_lack_is_refused(tmp_path: Path) -> None:
    text = '{"path": "1.jpg", "label": 1, "camera": null}\n{"path": "2.jpg", "label": 1, "camera": 2.0}\n'
    config = source(tmp_path, text, "a.jsonl", attributes=("camera",))
    assert [item.attributes for item in open_source(config).items()] == [{"camera": ""}, {"camera": "2"}]
    said = listing_error(source(tmp_path, text, "a.jsonl", attributes=("lens",)))
    assert said == f"{tmp_path}/a.jsonl: no row has 'lens', which `attributes` asks for"


def test_the_mask_of_an_image_is_the_file_that_its_row_names(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.png").write_bytes(b"mask")
    (tmp_path / "data.csv").write_text("path,label,mask\n./a.jpg,x,m/a.png\nb.jpg,x,\nc.jpg,x,../c.png\n")
    source = open_source(TableSource(path=str(tmp_path / "data.csv")))
    a, b, c = source.items()
    masks = masked(source)
    assert masks.mask(a) == b"mask"
    with pytest.raises(UnreadableItemError, match=r"the row of b\.jpg names no mask"):
        masks.mask(b)
    with pytest.raises(UnreadableItemError, match="outside_root"):
        masks.mask(c)
    (tmp_path / "plain.csv").write_text("path,label\na.jpg,x\n")
    with pytest.raises(SourceError, match=r"give a table with the column `mask`.*a table without"):
        masked(open_source(TableSource(path=str(tmp_path / "plain.csv"))))
