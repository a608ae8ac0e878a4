"""JPEG files as segments: damage in the coded pixels, and ICC profiles cut out without decoding."""

import re
from collections.abc import Iterator

import simplejpeg

from engine.sample import ImageBytes

START, END = b"\xff\xd8", b"\xff\xd9"
SCAN, APP0, APP2, APP15, COMMENT = 0xDA, 0xE0, 0xE2, 0xEF, 0xFE
# Baseline and extended sequential: their scans have one set of parameters, which some cameras write wrongly.
SEQUENTIAL = (0xC0, 0xC1)
SEQUENTIAL_PARAMETERS = b"\0\x3f\0"
PROFILE = b"ICC_PROFILE\0"
DAMAGE = ("Corrupt JPEG data", "Premature end")
# Some cameras fill their files up to a multiple of 2 to 16 bytes.
MAX_PADDING = 16
_PADDING = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


def jpeg_damage(data: ImageBytes) -> str | None:
    """Return libjpeg's warning about coded pixels that are damaged, None for a whole JPEG and for another format.

    Decoders go on after such a warning and give other pixels. Every code is read, and one pixel of 64 is computed: a
    third of the time of decoding. Metadata is left out of it, and an end that is missing is no damage. Where the codes
    come out even by chance nothing is found: of holes of 1,000 bytes 2 in 1,120, of 100 bytes one in ten, of single
    flipped bits three in four.
    """
    data = bytes(data)
    if not data.startswith(START):
        return None
    kept, scans, is_sequential = [START], len(data), False
    for marker, start, end in _segments(data):
        segment = data[start:end]
        is_sequential = is_sequential or marker in SEQUENTIAL
        if marker == SCAN:
            scans = end
            if is_sequential:
                segment = segment[:-3] + SEQUENTIAL_PARAMETERS
        if not APP0 <= marker <= APP15 and marker != COMMENT:
            kept.append(segment)
    checked = b"".join((*kept, data[scans:], END))
    try:
        simplejpeg.decode_jpeg(checked, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8)
    except ValueError as error:
        warning = str(error)
        padding = _PADDING.fullmatch(warning)
        is_padded = padding and int(padding[1]) <= MAX_PADDING and bytes(int(padding[1])) + END in data
        # Others are kinds of JPEG that one decoder reads and another does not.
        return warning if warning.startswith(DAMAGE) and not is_padded else None
    return None


def without_profile(data: ImageBytes) -> bytes:
    """Return a JPEG without its ICC profile and with the same pixels; the same bytes where it has none."""
    data = bytes(data)
    profiles = [
        (start, end) for marker, start, end in _segments(data) if marker == APP2 and data.startswith(PROFILE, start + 4)
    ]
    for start, end in reversed(profiles):
        data = data[:start] + data[end:]
    return data


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment of the header, that of the first scan last."""
    start, marker = len(START), 0
    while marker != SCAN and (start := data.find(b"\xff", start)) >= 0 and start + 4 <= len(data):
        marker = data[start + 1]
        if marker in (0x00, 0xFF):  # a byte that fills up
            start += 1
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        yield marker, start, end
        start = end
