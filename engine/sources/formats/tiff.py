"""Damage in compressed TIFF files, which libtiff writes to the error stream while the decoder goes on."""

import zlib

from PIL import Image

from engine.sample import ImageBytes
from engine.sources.formats.jpeg import END, START, jpeg_damage

COMPRESSION, TABLES = 259, 347
JPEG, DEFLATE = 7, (8, 32946)
# Places and sizes of strips, and of tiles.
PARTS = ((273, 279), (324, 325))
CHUNK_BYTES = 1 << 20


def tiff_damage(image: Image.Image, data: ImageBytes) -> str | None:
    """Return what is wrong with the coded pixels of an opened TIFF, None where nothing is seen.

    Deflate has a checksum, and JPEG is read by `jpeg_damage`. Other compressions have neither.
    """
    tags = getattr(image, "tag_v2", {})
    compression = tags.get(COMPRESSION)
    if compression != JPEG and compression not in DEFLATE:
        return None
    # All parts share these.
    tables = tags.get(TABLES, START).removesuffix(END)
    for places, sizes in PARTS:
        for start, size in zip(tags.get(places, ()), tags.get(sizes, ()), strict=False):
            part = bytes(data[start : start + size])
            is_jpeg = compression == JPEG
            if found := jpeg_damage(tables + part.removeprefix(START)) if is_jpeg else _deflate_damage(part):
                return found
    return None


def _deflate_damage(part: bytes) -> str | None:
    decoder = zlib.decompressobj()
    try:
        while part and not decoder.eof:
            decoder.decompress(part, CHUNK_BYTES)
            part = decoder.unconsumed_tail
    except zlib.error as error:
        return str(error)
    return None
