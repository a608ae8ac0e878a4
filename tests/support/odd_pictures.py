"""Pictures that Pillow does not write: 16-bit colour in PNG, ICC profiles of other colour spaces, and damaged files."""

import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Primaries of RGB spaces in XYZ under D50, a column a channel, and the exponent of their tone curve.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
DISPLAY_P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE_RGB = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
PROPHOTO = np.array([[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]])
D50 = (0.96420, 1.0, 0.82491)


def photo(width: int = 160, height: int = 120, seed: int = 0) -> Image.Image:
    """Return a picture with areas, edges and texture, so that its codes are as those of a photograph."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = rng.normal(0, 12, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **settings: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_16(values: NDArray[np.uint16], *extras: bytes) -> bytes:
    """Return a PNG of 16 bits: (height, width) or (height, width, 2 to 4)."""
    height, width = values.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extras) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, *, order: str = "<", photometric: int = 1, planar: int = 1) -> bytes:
    """A TIFF without compression, as Pillow does not write it."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    data = (np.moveaxis(values, -1, 0) if planar == 2 else values).astype(values.dtype.newbyteorder(order)).tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = 8 * values.dtype.itemsize
    tags = [(256, 3, [width]), (257, 3, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [photometric])]
    strips = channels if planar == 2 else 1
    tags += [(273, 4, [0] * strips), (277, 3, [channels]), (278, 3, [height]), (279, 4, [len(data) // strips] * strips)]
    tags += [(284, 3, [planar]), (339, 3, [sample_format] * channels)]
    if channels == 4:
        tags.insert(-1, (338, 3, [2]))
        tags.sort()
    body = 8 + 2 + 12 * len(tags) + 4
    extra, index = b"", b""
    start = body + sum(4 * len(numbers) for _, _, numbers in tags)
    for tag, kind, numbers in tags:
        if tag == 273:
            numbers = [start + place * (len(data) // len(numbers)) for place in range(len(numbers))]
        packed = struct.pack(f"{order}{len(numbers)}{'H' if kind == 3 else 'I'}", *numbers)
        if len(packed) > 4:
            field, extra = struct.pack(f"{order}I", body + len(extra)), extra + packed
        else:
            field = packed.ljust(4, b"\0")
        index += struct.pack(f"{order}HHI", tag, kind, len(numbers)) + field
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return (head + struct.pack(f"{order}H", len(tags)) + index + bytes(4) + extra).ljust(start, b"\0") + data


def rgb_profile(primaries: NDArray[np.float64], gamma: float) -> bytes:
    """Return an ICC profile (version 2) of an RGB space with one exponent."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))
    tags = {name: _xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True)}
    return _profile(b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))})


def cmyk_profile(darkest: int = 40) -> bytes:
    """Return a profile by table: each ink takes its share of brightness, all of them leave L* = `darkest` of 255."""
    inks = np.array([0.3, 0.3, 0.1, 0.9])
    corners = np.stack(np.meshgrid(*([0.0, 1.0],) * 4, indexing="ij"), -1).reshape(-1, 4)
    lightness = np.maximum(255 * np.prod(1 - corners * inks, axis=1), darkest)
    table = np.stack([lightness, np.full(16, 128), np.full(16, 128)], axis=1).round().astype(np.uint8)
    straight = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9i", *(65536, 0, 0, 0, 65536, 0, 0, 0, 65536))
    return _profile(b"CMYK", b"Lab ", {b"A2B0": lut + straight * 4 + table.tobytes() + straight * 3})


def as_srgb(values: NDArray[np.uint8], primaries: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Return the sRGB values (..., 3) of colours of another space, by the formulas of IEC 61966-2-1."""
    linear = (values / 255) ** gamma @ (np.linalg.inv(SRGB) @ primaries).T
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _profile(space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {b"desc": text, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(D50)} | tags
    offset, index, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        index += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    whole = struct.pack(">I", len(tags)) + index + body
    header = struct.pack(">I4sI4s4s4s", 128 + len(whole), b"none", 0x02400000, b"prtr", space, connection)
    header += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _numbers(D50)
    return header.ljust(128, b"\0") + whole


def _xyz(values: object) -> bytes:
    return b"XYZ " + bytes(4) + _numbers(values)


def _numbers(values: object) -> bytes:
    return struct.pack(">3i", *(round(float(value) * 65536) for value in np.asarray(values)))


def scan_start(jpeg: bytes) -> int:
    """Return where the coded pixels of a JPEG begin."""
    start = 2
    while jpeg[start + 1] != 0xDA:
        start += 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")
    return start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")


Damage = Callable[[bytes, int, int], bytes]
# Each changes `size` bytes from `start` on; the two bytes at the end stay.
DAMAGES: dict[str, Damage] = {
    "zeroed": lambda data, start, size: data[:start] + bytes(size) + data[start + size :],
    "random": lambda data, start, size: data[:start] + random.Random(start).randbytes(size) + data[start + size :],
    "deleted": lambda data, start, size: data[:start] + data[start + size :],
    "doubled": lambda data, start, size: data[: start + size] + data[start:],
    "cut": lambda data, start, size: data[:start] + data[-2:],
}


def damaged(data: bytes, how: str, seed: int, *, begin: int, size: int) -> bytes:
    """Return an encoded picture with a damage in its body, from `begin` on, and an intact end."""
    start = random.Random(seed).randrange(begin, max(len(data) - 2 - size, begin + 1))
    return DAMAGES[how](data, start, size)
