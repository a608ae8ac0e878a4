"""The labelling page: one file on which a person labels edits good or bad and saves the CSV of `select --calibrate`."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from engine.errors import RunDirectoryError, ShardError
from engine.report.page import script_of, template_environment
from engine.report.pictures import data_uri, edit_label
from engine.report.results import picture_shards
from engine.run.directory import RunDirectory
from engine.sample import Sample, content_seed
from engine.selection.labels import scores_fingerprint

# In pixels. Larger than in the report, since details matter; 200 pairs of photographs make some 15 MB.
MAX_EDGE = 384


@dataclass(frozen=True, kw_only=True)
class LabelPage:
    """The page, the number of its pairs by stratum, and the number of edits without a picture."""

    html: str
    strata: Mapping[str, int]
    num_without_picture: int


def make_label_page(rundir: RunDirectory, num: int) -> LabelPage:
    """Return a page with `num` counterfactuals beside their sources.

    They are balanced over strata: kind, verdict and, where several editors draw, who drew it. Choice and order follow
    from the run's seed; a larger number includes a smaller one's edits, unless the run has grown. The page hides
    verdicts, scores and editors, so that they cannot bias labels. Raises RunDirectoryError where no shard is finished,
    ShardError where no edit has a picture.
    """
    markers = rundir.markers()
    if not markers:
        raise RunDirectoryError(f"{rundir.storage} has no finished shard yet: run `counterforge generate` first")
    shards = picture_shards(markers)
    samples = [sample for index in shards for sample in (*rundir.read_shard(index), *rundir.read_rejected(index))]
    sources = {sample.key: sample for sample in samples if sample.role == "source"}
    edits = [sample for sample in samples if sample.role == "counterfactual"]
    shown = choose_pairs([edit for edit in edits if edit.image], num, rundir.run().seed)
    if not shown:
        raise ShardError(f"{rundir.storage} has no picture of a counterfactual to label: look at `counterforge status`")
    return LabelPage(
        html=render_label_page(rundir.info.name, rundir.info.digest, shown, sources),
        strata=dict(sorted(Counter(map(_stratum, shown)).items())),
        num_without_picture=sum(not edit.image for edit in edits),
    )


def choose_pairs(edits: Sequence[Sample], num: int, seed: int) -> list[Sample]:
    """Return a seeded sample that takes each stratum in turn, in an order that does not reveal the stratum."""
    strata: dict[str, list[Sample]] = defaultdict(list)
    for edit in sorted(edits, key=lambda edit: content_seed(seed, f"label/{edit.key}")):
        strata[_stratum(edit)].append(edit)
    in_turn = [edit for turn in zip_longest(*(strata[name] for name in sorted(strata))) for edit in turn if edit]
    return sorted(in_turn[:num], key=lambda edit: content_seed(seed, f"order/{edit.key}"))


def render_label_page(name: str, digest: str, edits: Sequence[Sample], sources: Mapping[str, Sample]) -> str:
    """Return the page as HTML. Its policy allows its own script alone and no external resource."""
    used = {edit.source_key: sources[edit.source_key] for edit in edits}
    data = {
        "name": name,
        "digest": digest,
        "images": {sample.key: data_uri(sample.image, MAX_EDGE) for sample in (*used.values(), *edits)},
        "pairs": [_pair(edit) for edit in edits],
    }
    template = template_environment().get_template("label.html.jinja")
    return template.render(name=name, data=data, **script_of("label.js"))


def _pair(sample: Sample) -> dict[str, str]:
    edit = sample.edit
    return {
        "key": sample.key,
        "source": sample.source_key,
        "class": sample.class_name,
        "title": edit_label(sample, who=False),
        "instruction": edit.instruction if edit else "",
        "caption": edit.caption if edit else "",
        "fingerprint": scores_fingerprint(sample.scores),
    }


def _stratum(sample: Sample) -> str:
    words = ["accepted" if sample.is_accepted else "rejected"]
    if sample.edit is not None:
        words.append(sample.edit.kind)
    if sample.edit is not None and sample.edit.strategy:
        words.append(f"by {sample.edit.strategy}")
    return " ".join(words)
