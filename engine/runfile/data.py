"""The section `data` of the run file: labelled images and their splits."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from engine.runfile.fields import PATH, Config


class ImageSource(Config):
    """Say how the pixels of a source are read; stored pictures are 8-bit RGB without a colour profile."""

    colour: Literal["srgb", "raw"] = Field(
        "srgb",
        description="srgb: colours are converted by the ICC profile of an image. raw: its numbers are kept, for a "
        "classifier that reads them so",
    )
    value_range: Literal["auto"] | tuple[float, float] = Field(
        "auto",
        description="[black, white] of images with more than 8 bits a channel, such as [0, 4095]; an image with other "
        "values is refused. auto: 8, 10, 12, 14 or 16 bits, or [0, 1], by some images of the source",
    )

    @field_validator("value_range")
    @classmethod
    def _ordered(cls, value: Literal["auto"] | tuple[float, float]) -> Literal["auto"] | tuple[float, float]:
        if value != "auto" and not value[0] < value[1]:
            raise ValueError(f"value_range must be [black, white] with black < white, got [{value[0]:g}, {value[1]:g}]")
        return value


class FolderSource(ImageSource):
    """Read a folder with one sub-folder a class."""

    kind: Literal["folder"] = "folder"
    path: Annotated[str, PATH] = Field(description="a folder of class folders: path/cat/1.jpg, path/dog/a/2.png")


class TableSource(ImageSource):
    """Read a CSV or JSONL with the columns path and label, and if wanted caption, group, mask and attributes."""

    kind: Literal["table"] = "table"
    path: Annotated[str, PATH] = Field(description="a .csv, .tsv or .jsonl file")
    image_folder: Annotated[str | None, PATH] = Field(
        None, description="image paths are relative to this folder and stay inside; default: that of the table"
    )
    classes: tuple[str, ...] = Field((), description="names of the labels 0, 1, 2, ...; or all labels, where one is NA")
    attributes: tuple[str, ...] = Field((), description="further columns to keep, for evaluation by group")


class TarSource(ImageSource):
    """Read WebDataset tars: {key}.jpg with {key}.cls or a label in {key}.json, and if wanted a caption and a group."""

    kind: Literal["webdataset"] = "webdataset"
    path: Annotated[str, PATH] = Field(description="one tar, or a folder of tars")
    classes: tuple[str, ...] = Field((), description="names of the labels 0, 1, 2, ...; or all labels, where one is NA")
    attributes: tuple[str, ...] = Field((), description="further fields of the json to keep")


class HuggingFaceSource(ImageSource):
    """Read a Hugging Face dataset that was saved to disk."""

    kind: Literal["huggingface"] = "huggingface"
    path: Annotated[str, PATH] = Field(description="a folder written by save_to_disk")
    split: str | None = Field(None, description="which one, where the folder holds several (a DatasetDict)")
    image_column: str = "image"
    label_column: str = "label"
    caption_column: str | None = None
    group_column: str | None = Field(
        None, description="rows with the same value fall in one split; default: the column `group`, where there is one"
    )
    classes: tuple[str, ...] = Field((), description="names of the labels 0, 1, 2, ...; or all labels, where one is NA")
    attributes: tuple[str, ...] = Field((), description="further columns to keep")


class WardrobeSource(Config):
    """Make garment composites with exact ground truth: the data that ships with Counterforge."""

    kind: Literal["wardrobe"] = "wardrobe"
    split: Literal["sources", "heldout"] = "sources"
    count: int = Field(8000, ge=1, description="number of composites")
    correlation: float | None = Field(
        None, ge=0, le=1, description="share of each class on its own background; null: every background equally often"
    )
    captions: bool = Field(False, description="give the true captions along instead of leaving them to the captioner")
    things: bool = Field(False, description="a thing lies beside each garment, such as a ball; captions name it")
    seed: int = Field(0, ge=0, description="another seed, other composites")


class GroundsSource(Config):
    """Take photographs of the wardrobe's grounds, with nothing on them; the classes are the grounds."""

    kind: Literal["wardrobe_grounds"] = "wardrobe_grounds"
    count: int = Field(400, ge=1, description="number of photographs, each another crop")


AnySource = Annotated[
    FolderSource | TableSource | TarSource | HuggingFaceSource | WardrobeSource | GroundsSource,
    Field(discriminator="kind"),
]


class Splits(Config):
    """Share of the sources in each split; a source's split is a hash of its key, or of its group where it has one."""

    train: float = Field(0.8, ge=0, le=1)
    validation: float = Field(0.1, ge=0, le=1)
    test: float = Field(0.1, ge=0, le=1)
    seed: int | None = Field(
        None, description="of that hash; default: the run's. Set, it keeps the split where the run's seed changes"
    )

    @model_validator(mode="after")
    def _whole(self) -> "Splits":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, got {total:g}")
        return self


class DataConfig(Config):
    """Name the labelled images."""

    train: AnySource = Field(description="the classifier's own kind of data: edited, replayed and split")
    test: AnySource | None = Field(None, description="in-distribution test set; default: the test split of `train`")
    shifted: AnySource | None = Field(
        None, description="a second test set under shift, for groups; default: the same as `test`"
    )
    oracle: AnySource | None = Field(
        None,
        description="images of the same kind without the weakness, for the arm `oracle`, which shows what could be "
        "had; those of the train split are used",
    )
    splits: Splits = Splits()
    near_duplicates: Literal["group", "off"] = Field(
        "group",
        description="sources that look alike fall in one split, and those that look like an image of `test` or "
        "`shifted` are left out; costs a look at every image once a run. off: only keys and groups decide",
    )
    num_sources: int | None = Field(
        None, ge=1, description="how many sources of the train split get edits; default: all"
    )
    num_validation_sources: int = Field(
        0, ge=0, description="sources of the validation split that get edits too, for model selection"
    )

    def sources(self) -> dict[str, AnySource]:
        """Return the sources that are named, by their fields."""
        named = {"train": self.train, "test": self.test, "shifted": self.shifted, "oracle": self.oracle}
        return {name: source for name, source in named.items() if source is not None}

    @model_validator(mode="after")
    def _one_colour(self) -> "DataConfig":
        colours = {name: getattr(source, "colour", None) for name, source in self.sources().items()}
        if len(set(colours.values()) - {None}) > 1:
            raise ValueError(f"colour must be the same in all sources, which one classifier reads: got {colours}")
        return self
