"""Pictures for people: data URIs for the page, and PNG sheets of groups for `show` and the README."""

import base64
import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from engine.report.rows import Picture, PictureRow
from engine.runfile.arms import BASE
from engine.sample import ImageBytes, Sample

MAX_EDGE = 256
# A contact sheet, in pixels: one picture, the gap beside it, the captions and a caption's line below it, the header.
CELL, GAP, LABEL, LINE, HEADER = 144, 14, 52, 16, 30
INK, SOFT_INK, PAPER, RIGHT_INK, WRONG_INK = "#1b1f24", "#565d66", "#ffffff", "#17643f", "#a12d1b"


def data_uri(image: ImageBytes, max_edge: int = MAX_EDGE) -> str:
    """Return an encoded image as a data URI, made smaller where an edge is longer than `max_edge` pixels."""
    with Image.open(io.BytesIO(image)) as opened:
        kind, small = opened.format, max(opened.size) <= max_edge
        # A profile would show a source in other colours than its edits, which have none.
        if not (small and kind in {"JPEG", "PNG"} and not opened.info.get("icc_profile")):
            reduced = opened.convert("RGB")
            reduced.thumbnail((max_edge, max_edge), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            reduced.save(buffer, "JPEG", quality=88)
            image, kind = buffer.getvalue(), "JPEG"
    mime = "image/png" if kind == "PNG" else "image/jpeg"
    return f"data:{mime};base64,{base64.b64encode(image).decode()}"


def contact_sheet(rows: Sequence[PictureRow], cell: int = CELL) -> bytes:
    """Return a PNG with one row a source: source, placebo, counterfactuals, each with its edit and predictions.

    `before` is the base classifier's answer and `after` the reinforced one's; a tick or a cross says if it is right.
    """
    lines = _columns(rows)
    num_placebos = max((len(_placebos(row)) for row in rows), default=0)
    num_columns = max(map(len, lines), default=2)
    step_x, step_y = cell + GAP, cell + LABEL + GAP
    sheet = Image.new("RGB", (GAP + num_columns * step_x, HEADER + max(len(rows), 1) * step_y), PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, text in enumerate(("source", *["placebo"] * num_placebos, "counterfactuals")):
        draw.text((GAP + column * step_x, 8), text, SOFT_INK, _font(13))
    for row_index, line in enumerate(lines):
        for column, picture in enumerate(line):
            if picture is not None:
                x, y = GAP + column * step_x, HEADER + row_index * step_y
                _paste(sheet, picture.sample, (x, y), cell)
                _write_captions(draw, picture, (x, y + cell + 4), cell)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def edit_label(sample: Sample, *, who: bool = True) -> str:
    """Return a short label of the sample: `source`, `placebo` or `background: sand → grass`, and `who` drew it."""
    if sample.edit is None:
        return sample.role
    drawn_by = f", by {sample.edit.strategy}" if who and sample.edit.strategy else ""
    if sample.role != "counterfactual":
        return f"{sample.role}{drawn_by}"
    severity = "" if sample.edit.severity == 1 else f" × {sample.edit.severity:g}"
    return f"{sample.edit.kind}: {sample.edit.before} → {sample.edit.after}{severity}{drawn_by}"


def _paste(sheet: Image.Image, sample: Sample, corner: tuple[int, int], cell: int) -> None:
    with Image.open(io.BytesIO(sample.image)) as opened:
        picture = opened.convert("RGB")
    scale = cell / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(picture, (corner[0] + (cell - size[0]) // 2, corner[1] + (cell - size[1]) // 2))


def _columns(rows: Sequence[PictureRow]) -> list[list[Picture | None]]:
    """Return the rows' pictures by column, None for a missing placebo where other rows have one."""
    num_placebos = max((len(_placebos(row)) for row in rows), default=0)
    columns = []
    for row in rows:
        placebos: list[Picture | None] = [*_placebos(row)]
        edits = [picture for picture in row.pictures[1:] if picture not in placebos]
        columns.append([row.source, *placebos, *[None] * (num_placebos - len(placebos)), *edits])
    return columns


def _placebos(row: PictureRow) -> list[Picture]:
    return [picture for picture in row.pictures if picture.sample.role == "placebo"]


def _write_captions(draw: ImageDraw.ImageDraw, picture: Picture, corner: tuple[int, int], width: int) -> None:
    sample, (x, y), font = picture.sample, corner, _font(12)
    draw.text((x, y), _fit(_title(sample), font, width), INK, font)
    if sample.verdict and not sample.verdict.accepted:
        text = "rejected: " + ", ".join(sample.verdict.reasons).replace("_", " ")
        draw.text((x, y + LINE), _fit(text, font, width), WRONG_INK, font)
    for line, (arm, guess) in enumerate(picture.guesses.items(), start=1):
        top, ink = y + LINE * line, RIGHT_INK if guess.right else WRONG_INK
        draw.text((x, top), "before" if arm == BASE else "after", SOFT_INK, font)
        # The built-in font has no tick and no cross.
        sign = [(0, 5), (3, 8), (9, 1)] if guess.right else [(0, 0), (8, 8), (4, 4), (8, 0), (0, 8)]
        draw.line([(x + 42 + dx, top + 4 + dy) for dx, dy in sign], ink, 2)
        draw.text((x + 56, top), _fit(f"{guess.class_name} {guess.confidence:.2f}", font, width - 52), ink, font)


def _title(sample: Sample) -> str:
    """Return what a picture shows, in a few words: of several editors also whose it is."""
    if sample.edit is None or sample.role not in ("counterfactual", "placebo"):
        return sample.class_name
    by = sample.edit.strategy
    if sample.role == "placebo":
        return f"by {by}" if by else sample.class_name
    return f"{sample.edit.after}, by {by}" if by else f"{sample.edit.kind}: {sample.edit.after}"


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _fit(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
