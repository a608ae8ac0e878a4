"""PNG checksums: a damaged text is left out, a damaged picture is refused."""

import io

import numpy as np
import pytest
from odd_pictures import chunk, encoded, photo
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from engine.sources.formats.png import without_damaged_extras

WHOLE = encoded(photo(), "PNG")
HEADER = 8 + 25  # signature and IHDR


def with_chunk(name: bytes, data: bytes = b"Author\0me", *, is_damaged: bool) -> bytes:
    added = chunk(name, data)
    return WHOLE[:HEADER] + (added[:-1] + bytes([added[-1] ^ 1]) if is_damaged else added) + WHOLE[HEADER:]


@pytest.mark.parametrize("name", [b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"iCCP", b"prVt"])
def test_an_extra_with_a_wrong_checksum_is_left_out(name: bytes) -> None:
    assert without_damaged_extras(with_chunk(name, is_damaged=True)) == WHOLE
    whole = with_chunk(name, is_damaged=False)
    assert without_damaged_extras(whole) is whole


@pytest.mark.parametrize("name", [b"tRNS", b"eXIf"])
def test_an_extra_that_decides_how_the_picture_looks_is_not(name: bytes) -> None:
    with pytest.raises(ValueError, match=f"the checksum of its chunk {name.decode()} is wrong"):
        without_damaged_extras(with_chunk(name, is_damaged=True))


def test_every_changed_byte_of_the_pixels_is_found() -> None:
    start = WHOLE.index(b"IDAT") + 4
    for place in range(start, len(WHOLE) - 16, 997):
        broken = WHOLE[:place] + bytes([WHOLE[place] ^ 64]) + WHOLE[place + 1 :]
        with pytest.raises(ValueError, match="chunk IDAT"):
            without_damaged_extras(broken)


def test_pixels_that_go_beyond_the_end_are_refused() -> None:
    start = WHOLE.index(b"IDAT") - 4
    longer = WHOLE[: start + 1] + b"\1" + WHOLE[start + 2 :]  # 65536 bytes more than there are: nothing to check
    for broken in (WHOLE[:-30], longer):
        with pytest.raises(ValueError, match="its pixels are cut"):
            without_damaged_extras(broken)


def test_texts_before_and_after_the_pixels_go_and_the_picture_stays() -> None:
    info = PngInfo()
    info.add_text("Comment", "a boot", zip=True)
    info.add_itxt("Title", "Stiefel")
    data = encoded(photo(), "PNG", pnginfo=info)
    data = data[:-12] + chunk(b"tEXt", b"Software\0x")[:-1] + b"?" + data[-12:]
    for name in (b"zTXt", b"iTXt"):
        place = data.index(name)
        data = data[: place + 6] + b"~" + data[place + 7 :]
    with Image.open(io.BytesIO(without_damaged_extras(data))) as image:
        assert np.array_equal(np.asarray(image), np.asarray(photo()))
        assert "Comment" not in image.info


def test_other_formats_and_cut_files_are_left_to_pillow() -> None:
    for data in (b"", b"\x89PNG\r\n\x1a\n", WHOLE[:40], encoded(photo(), "JPEG"), memoryview(b"GIF89a")):
        assert without_damaged_extras(data) is data
    assert without_damaged_extras(WHOLE + b"behind the end") == WHOLE + b"behind the end"
