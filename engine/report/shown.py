"""The pictures of a run's page, with their files, and the pairs that get an attribution map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.report.domain import Sizes, sizes_of
from engine.report.results import picture_shards, read_guesses
from engine.report.rows import PictureRow, choose_examples, choose_rows, make_rows
from engine.run.directory import RunDirectory, rejected_path, shard_path
from engine.runfile.run import RunFile
from engine.sample import Sample
from engine.shards.tar import image_extension

NUM_EXAMPLES = 14


@dataclass(frozen=True, kw_only=True)
class PictureFile:
    """The file of the run directory that holds a picture, and its member name."""

    file: str
    member: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The pictures of the page: rows of one source each, accepted and rejected examples; and the file of each.

    `sizes` are those of some sources and their edits.
    """

    rows: Sequence[PictureRow]
    accepted: Sequence[Sample]
    rejected: Sequence[Sample]
    places: Mapping[str, PictureFile]
    sizes: Sequence[Sizes]

    @property
    def pictures(self) -> dict[str, Sample]:
        """Return every picture of the page by key."""
        in_rows = [picture.sample for row in self.rows for picture in row.pictures]
        return {sample.key: sample for sample in (*in_rows, *self.accepted, *self.rejected)}


def choose_shown(rundir: RunDirectory, run: RunFile, digests: Mapping[str, str]) -> Shown:
    """Return the pictures to show, rows with flips first; `digests` are those of the classifiers by arm."""
    shards = picture_shards(rundir.markers())
    samples: list[Sample] = []
    places: dict[str, PictureFile] = {}
    for index in shards:
        accepted, rejected = rundir.read_shard(index), rundir.read_rejected(index)
        samples += [*accepted, *rejected]
        # A source is stored with its accepted edits and with its rejected ones: the first copy is named.
        places = _places(rejected_path(index), rejected) | _places(shard_path(index), accepted) | places
    shown = [sample for sample in samples if sample.is_accepted or sample.role == "source"]
    guesses = read_guesses(rundir, digests, shards)
    edits = [sample for sample in samples if sample.role == "counterfactual"]
    return Shown(
        rows=choose_rows(make_rows(shown, guesses), run.report.num_rows),
        accepted=choose_examples(edits, is_accepted=True, count=NUM_EXAMPLES),
        rejected=choose_examples(edits, is_accepted=False, count=NUM_EXAMPLES),
        places=places,
        sizes=sizes_of(samples),
    )


def worst_pairs(rows: Sequence[PictureRow], count: int) -> list[tuple[Sample, Sample]]:
    """Return up to `count` edits that flip the classifier, each with its placebo, or its source where there is none."""
    pairs = []
    for row in rows:
        placebos = {each.sample.control: each.sample for each in row.pictures if each.sample.role == "placebo"}
        flips = [picture.sample for picture in row.flips()]
        pairs += [(sample, placebos.get(sample.control, row.source.sample)) for sample in flips]
    return [(edit, control) for edit, control in pairs if edit.image and control.image][:count]


def _places(file: str, samples: Sequence[Sample]) -> dict[str, PictureFile]:
    return {
        sample.key: PictureFile(file=file, member=f"{sample.key}{image_extension(sample.image) or '.json'}")
        for sample in samples
    }
