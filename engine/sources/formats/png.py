"""PNG files as chunks: their checksums, which say what is damaged."""

import zlib

from engine.sample import ImageBytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks without which a picture is shown, and wrongly: its transparent colour, and the side that is up.
DECISIVE = (b"tRNS", b"eXIf")
OVERHEAD = 12  # length, name and checksum of a chunk
IS_OPTIONAL = 0x20  # in the first letter of the name


def without_damaged_extras(data: ImageBytes) -> ImageBytes:
    """Return a PNG without those texts and other extras whose checksum is wrong; anything else as it is.

    Raise ValueError where a checksum says that the picture itself is damaged.
    """
    if bytes(data[: len(SIGNATURE)]) != SIGNATURE:
        return data
    start, damaged = len(SIGNATURE), list[tuple[int, int]]()
    while start + OVERHEAD <= len(data):
        end = start + OVERHEAD + int.from_bytes(data[start : start + 4], "big")
        name = bytes(data[start + 4 : start + 8])
        if end > len(data):
            if name == b"IDAT":
                raise ValueError("its pixels are cut")
            break
        if zlib.crc32(data[start + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            if not name[0] & IS_OPTIONAL or name in DECISIVE:
                raise ValueError(f"the checksum of its chunk {name.decode('latin-1')} is wrong")
            damaged.append((start, end))
        start = end
        if name == b"IEND":
            break
    for start, end in reversed(damaged):
        data = bytes(data[:start]) + bytes(data[end:])
    return data
