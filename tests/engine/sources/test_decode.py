"""What a source's picture is stored as: its colours in sRGB, its own range of values, or a reason in words."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from odd_pictures import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    as_srgb,
    chunk,
    damaged,
    encoded,
    grey_profile,
    photo,
    png_16,
    rgb_profile,
    scan_start,
)
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from engine.runfile.data import DataConfig, FolderSource, WardrobeSource
from engine.sample import Rejection, Sample
from engine.sources import UnreadableItemError, open_source, read_sample
from engine.sources.decode import Reading, grey_pixels, has_contrast, is_plain_jpeg, to_jpeg, to_png

SRGB_ITSELF = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WIDE = rgb_profile(ADOBE_RGB, 2.19921875)
PLAIN = encoded(photo(), "JPEG", quality=90)
RAW = Reading(is_managed=False)


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(opened(data), float)


def read(folder: Path, data: bytes, **settings: object) -> Sample | Rejection:
    (folder / "boot").mkdir(exist_ok=True)
    (folder / "boot" / "1.png").write_bytes(data)
    source = open_source(FolderSource(path=str(folder), **settings))
    (item,) = [item for item in source.items() if item.locator == "boot/1.png"]
    return read_sample(source, item, "train")


# Plain files


def test_plain_jpegs_of_the_wardrobe_and_of_cameras_keep_their_bytes() -> None:
    source = open_source(WardrobeSource(count=20))
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    files = [source.read(item) for item in source.items()]
    files += [PLAIN, encoded(photo(), "JPEG", exif=exif, comment=b"a boot"), PLAIN + b"behind the end"]
    for data in files:
        assert is_plain_jpeg(data)
        assert to_jpeg(data) == data


# Damage


def test_a_jpeg_with_a_hole_is_refused_with_libjpegs_words(tmp_path: Path) -> None:
    for settings in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        data = encoded(photo(), "JPEG", quality=90, **settings)
        hole = damaged(data, "deleted", 1, begin=scan_start(data), size=1500)
        assert np.abs(pixels(hole) - pixels(data)).mean() > 5
        rejection = read(tmp_path, hole)
        assert isinstance(rejection, Rejection)
        assert rejection.reason == "unreadable_image"
        assert rejection.detail.startswith("damaged JPEG: Corrupt JPEG data: ")
        with pytest.raises(UnreadableItemError, match="Corrupt JPEG data"):
            to_png(hole)


def test_a_png_with_a_damaged_text_is_read() -> None:
    info = PngInfo()
    info.add_text("Comment", "a boot")
    data = encoded(photo(), "PNG", pnginfo=info)
    broken = data.replace(b"Comment\0a boot", b"Comment\0a b~ot")
    assert broken != data
    assert to_png(broken) == to_png(data)
    assert to_jpeg(broken) == to_jpeg(data)
    values = np.asarray(photo(), np.uint16) * 16
    added = chunk(b"tEXt", b"Comment\0a boot")
    assert to_png(png_16(values, added[:-1] + b"~"), Reading(value_range=(0, 4095))) == to_png(
        png_16(values), Reading(value_range=(0, 4095))
    )


# Colours


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_colours_become_srgb_once_and_the_profile_goes(kind: str) -> None:
    # No channel beyond sRGB, where programs differ in how they cut.
    image = Image.fromarray((90 + np.asarray(photo(), float) / 255 * 100).astype(np.uint8))
    settings = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}, "JPEG": {"quality": 100}}
    data = encoded(image, kind, icc_profile=WIDE, **settings.get(kind, {}))
    expected = as_srgb(np.asarray(opened(data).convert("RGB")), ADOBE_RGB, 2.19921875)
    for encode in (to_jpeg, to_png):
        stored = opened(encode(data))
        assert "icc_profile" not in stored.info
        assert np.abs(np.asarray(stored, float) - expected).mean() < 2
        kept = opened(encode(data, RAW))
        assert "icc_profile" not in kept.info
        assert np.abs(np.asarray(kept, float) - np.asarray(image, float)).mean() < 2
    assert to_jpeg(to_jpeg(data)) == to_jpeg(data)


def test_a_plain_jpeg_loses_its_profile_without_new_pixels() -> None:
    for profile, reading in ((SRGB_ITSELF, Reading()), (b"broken" * 40, Reading()), (WIDE, RAW)):
        data = encoded(photo(), "JPEG", quality=90, icc_profile=profile)
        assert not is_plain_jpeg(data)
        assert to_jpeg(data, reading) == PLAIN
    assert to_jpeg(encoded(photo(), "JPEG", quality=90, icc_profile=WIDE)) != PLAIN


def test_other_modes_are_converted_by_their_profiles() -> None:
    grey = photo().convert("L")
    expected = as_srgb(np.repeat(np.asarray(grey)[..., None], 3, 2), SRGB, 1.0)
    for data in (
        encoded(grey, "TIFF", icc_profile=grey_profile(1.0)),
        encoded(grey, "PNG", icc_profile=grey_profile(1.0)),
        png_16(np.asarray(grey, np.uint16) * 257, chunk(b"iCCP", b"a\0\0" + zlib.compress(grey_profile(1.0)))),
    ):
        assert np.abs(pixels(to_png(data)) - expected).max() <= 1
    palette = photo().quantize(32)
    shown = as_srgb(np.asarray(palette.convert("RGB")), DISPLAY_P3, 2.2)
    found = pixels(to_png(encoded(palette, "PNG", icc_profile=rgb_profile(DISPLAY_P3, 2.2))))
    assert np.abs(found - shown).mean() < 1.5


def test_alpha_is_white_after_the_conversion_not_before() -> None:
    layers = Image.new("RGBA", (8, 8), (150, 120, 100, 128))
    data = encoded(layers, "PNG", icc_profile=WIDE)
    colour = as_srgb(np.array([150, 120, 100], np.uint8), ADOBE_RGB, 2.19921875)
    assert np.abs(pixels(to_png(data))[0, 0] - (colour * 128 / 255 + 127)).max() < 2


def test_the_switch_is_part_of_the_source_and_the_same_in_all(tmp_path: Path) -> None:
    data = encoded(photo(), "PNG", icc_profile=WIDE)
    raw, managed = read(tmp_path, data, colour="raw"), read(tmp_path, data)
    assert isinstance(raw, Sample)
    assert isinstance(managed, Sample)
    assert np.abs(pixels(raw.image) - np.asarray(photo(), float)).mean() < 3
    assert np.abs(pixels(managed.image) - pixels(raw.image)).mean() > 8
    source = FolderSource(path="/a")
    assert source.changes() == {"kind": "folder", "path": "/a"}
    assert source.model_copy(update={"colour": "raw"}).changes()["colour"] == "raw"
    with pytest.raises(ValueError, match="colour must be the same in all sources"):
        DataConfig(train=source, test=FolderSource(path="/b", colour="raw"))
    DataConfig(train=WardrobeSource(), shifted=FolderSource(path="/b", colour="raw"))


# Values


def test_12_bits_in_16_are_the_picture_of_8_bits_to_the_byte(tmp_path: Path) -> None:
    eight = np.asarray(photo())
    for values in (np.round(eight * (4095 / 255)), eight * 257.0, np.minimum(eight * 4.0, 1023)):
        white = {4095: 4095, 65535: 65535}.get(int(values.max()), 1023)
        found = read(tmp_path, png_16(values.astype(np.uint16)), value_range=(0, white))
        assert isinstance(found, Sample)
        if white != 1023:
            assert found.image == to_jpeg(encoded(photo(), "PNG"))
        else:
            assert np.abs(pixels(found.image) - eight).mean() < 3


def test_a_dark_picture_of_a_bright_data_set_stays_dark(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for place in range(6):
        values = np.asarray(photo(seed=place).convert("L"), np.uint16) * 16
        (tmp_path / "boot" / f"bright-{place}.png").write_bytes(png_16(values))
    dark = np.asarray(photo().convert("L"), np.uint16) * 2  # 510 of 4095
    found = read(tmp_path, png_16(dark))
    assert isinstance(found, Sample)
    assert np.abs(pixels(found.image)[..., 0] - dark * (255 / 4095)).mean() < 1.5


def test_integers_of_32_bits_and_floats_beyond_1_keep_their_picture(tmp_path: Path) -> None:
    grey = np.asarray(photo().convert("L"))
    for name, values in {"a": grey.astype(np.int32), "b": grey * np.float32(16), "c": grey / np.float32(255)}.items():
        (tmp_path / name).mkdir()
        found = read(tmp_path / name, encoded(Image.fromarray(values), "TIFF"))
        assert isinstance(found, Sample)
        assert np.abs(pixels(found.image)[..., 0] - grey).mean() < 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.linspace(-1024, 3000, 64).reshape(8, 8).astype(np.int32), "go from -1024 to 3000, and nothing says which"),
        (np.linspace(0, 9, 64).reshape(8, 8).astype(np.int32), "go from 0 to 9, and nothing says which is white: set"),
        (np.full((8, 8), np.nan, np.float32), "it holds values that are not finite"),
        (np.zeros((8, 8), np.int32), "go from 0 to 0, and nothing says which is white"),
    ],
)
def test_values_without_a_range_are_refused_in_words(tmp_path: Path, values: np.ndarray, said: str) -> None:
    rejection = read(tmp_path, encoded(Image.fromarray(values), "TIFF"))
    assert isinstance(rejection, Rejection)
    assert rejection.reason == "value_range"
    assert said in rejection.detail


def test_values_beyond_the_range_are_refused_not_cut(tmp_path: Path) -> None:
    data = png_16(np.linspace(0, 5000, 64).reshape(8, 8).astype(np.uint16))
    rejection = read(tmp_path, data, value_range=(0, 4095))
    assert isinstance(rejection, Rejection)
    assert rejection.detail == "its values go from 0 to 5000, and value_range is [0, 4095]"
    with pytest.raises(ValueError, match=r"value_range must be \[black, white\] with black < white, got \[9, 3\]"):
        FolderSource(path="/a", value_range=(9, 3))


def test_a_picture_of_more_bits_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.linspace(0, 4095, 40).reshape(5, 8).astype(np.uint16)
    turned = png_16(values, chunk(b"eXIf", exif.tobytes()[6:]))
    assert opened(to_png(turned, Reading(value_range=(0, 4095)))).size == (5, 8)
    colours = png_16(np.dstack([values] * 3), chunk(b"eXIf", exif.tobytes()[6:]))
    assert to_png(colours, Reading(value_range=(0, 4095))) == to_png(turned, Reading(value_range=(0, 4095)))


def test_hashes_see_12_bits_as_8() -> None:
    grey = np.asarray(photo().convert("L"))
    values = png_16(np.round(grey * (4095 / 255)).astype(np.uint16))
    stretched = (grey - grey.min()) * (255 / (grey.max() - grey.min()))
    eight = grey_pixels(encoded(Image.fromarray(np.round(stretched).astype(np.uint8)), "PNG"), 64)
    assert np.abs(grey_pixels(values, 64).astype(int) - eight).max() <= 1


# Contrast


def test_one_colour_everywhere_is_no_contrast() -> None:
    for mode in ("L", "RGB", "RGBA"):
        for kind in ("PNG", "WEBP"):
            assert not has_contrast(encoded(Image.new(mode, (300, 200), "grey"), kind))
    assert not has_contrast(encoded(Image.new("RGB", (300, 200), (9, 90, 200)), "JPEG"))
    assert not has_contrast(png_16(np.full((9, 9), 700, np.uint16)))
    spot = Image.new("RGB", (300, 200), "grey")
    spot.putpixel((150, 100), (129, 128, 128))
    assert has_contrast(encoded(spot, "PNG"))
    assert has_contrast(png_16(np.arange(81, dtype=np.uint16).reshape(9, 9)))
