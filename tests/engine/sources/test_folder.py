"""Class folders with things in them that are no classes and no images."""

from pathlib import Path

from source_files import folder_of, items_of, listing_error, remarks_of, write

from engine.sources import open_source


def test_images_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg", "2.jpg", "3.HEIC", "readme.txt", ".hidden.jpg")
    assert [item.locator for item in items_of(config)] == ["cat/1.jpg"]
    said = f"2 images in {tmp_path} itself are in no class folder and were left out: '2.jpg', '3.HEIC'"
    assert remarks_of(config) == [said]


def test_pictures_in_formats_that_are_not_read_are_counted_by_format(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg", "cat/2.heic", "cat/3.HEIC", "cat/4.cr2", "cat/5.txt")
    assert remarks_of(config) == [
        "3 pictures have formats that are not read (2 .heic, 1 .cr2) and were left out: "
        "'cat/2.heic', 'cat/3.HEIC', 'cat/4.cr2'",
        "1 files are not images by their names and were left out: 'cat/5.txt'",
    ]


def test_folders_of_the_system_are_no_classes(tmp_path: Path) -> None:
    names = ("__MACOSX/cat/._1.jpg", ".ipynb_checkpoints/1.jpg", "cat/@eaDir/1.jpg", "lost+found/1.jpg")
    config = folder_of(tmp_path, "cat/1.jpg", "dog/1.jpg", *names)
    assert open_source(config).classes == ("cat", "dog")
    assert [item.locator for item in items_of(config)] == ["cat/1.jpg", "dog/1.jpg"]


def test_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg", "train/dog/1.jpg")
    said = (
        f"{tmp_path} holds 'train', 'val', which are splits and no classes: name one of them, such as {tmp_path}/train"
    )
    assert listing_error(config) == said
    assert open_source(folder_of(tmp_path / "b", "train/1.jpg", "test/1.jpg")).classes == ("test", "train")
    assert open_source(folder_of(tmp_path / "c", "train/a/1.jpg", "bus/a/1.jpg")).classes == ("bus", "train")


def test_a_folder_around_the_class_folders_is_told(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "images/cat/1.jpg", "images/dog/1.jpg")
    assert remarks_of(config)[0].startswith("the only class is 'images', which holds folders: are these the classes?")


def test_links_to_folders_are_counted_and_a_loop_ends(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg", "cat/deep/2.jpg")
    (tmp_path / "cat/deep/loop").symlink_to(tmp_path / "cat")
    assert [item.locator for item in items_of(config)] == ["cat/1.jpg", "cat/deep/2.jpg"]
    assert remarks_of(config) == ["1 links to folders are not followed and were left out: 'cat/deep/loop/'"]


def test_a_class_of_empty_folders_is_refused(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg")
    (tmp_path / "dog/deep").mkdir(parents=True)
    assert listing_error(config).startswith(f"class 'dog' is empty: no image in {tmp_path}/dog")
    write(tmp_path / "dog/1.heic")
    assert listing_error(config).endswith("or remove the folder; it has 'dog/1.heic'")


def test_a_class_folder_whose_name_is_not_text_ends_nothing(tmp_path: Path) -> None:
    config = folder_of(tmp_path, "cat/1.jpg")
    write(Path(str(tmp_path) + "/do\udcffg") / "1.jpg")
    assert [item.class_name for item in items_of(config)] == ["cat", "do\ufffdg"]
