"""The JSON schema of summary.json, printed by `counterforge schema --of summary`.

A test validates a real summary against it. Names that end in _low and _high are the ends of the interval of the number
before. null: unknown or undefined.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from engine.evaluation.comparison import Comparison
from engine.evaluation.groups import GroupAccuracy
from engine.report.rows import Guess

UnitShare = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=0)]
Plain = bool | int | float | str | None
ArmNumbers = dict[str, "FigurePart | None"]


class Part(BaseModel):
    """A part of the summary without further fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class OpenPart(BaseModel):
    """A part with further fields: measures by name, the records of a training."""

    model_config = ConfigDict(extra="allow", strict=True)


class IntervalPart(Part):
    """A share with its interval."""

    value: UnitShare | None
    low: UnitShare | None
    high: UnitShare | None


class FigurePart(IntervalPart):
    """An accuracy with its interval."""

    n: Whole = Field(description="number of images")
    group: str | None = Field(None, description="class and attributes, where the accuracy is of one group")
    num_groups: Whole | None = Field(
        None, description="of so many groups this one is the worst; the interval is of the lowest true accuracy of all"
    )


class CountsPart(Part):
    """Numbers of sources and edits by outcome."""

    shards: Whole
    planned_shards: Whole
    sources: Whole
    placebos: Whole
    rejected_placebos: Whole
    candidates: Whole = Field(description="edits tried, without placebos")
    accepted: Whole
    rejected: dict[str, Whole] = Field(description="by the first failed check")
    quarantined: dict[str, Whole] = Field(description="by reason")
    quarantined_candidates: Whole


class Rates(Part):
    """Rates over the wall-clock time of the generate phase, null where it was not timed."""

    accepted_share: UnitShare | None
    candidates_per_second: float | None
    seconds_per_accepted: float | None
    price_per_accepted: float | None = Field(
        description="at report.gpu_price_per_hour, for the time in which stages used GPUs"
    )


class CellPart(OpenPart):
    """One cell of the weakness table; further numbers are measures with their intervals."""

    __pydantic_extra__: dict[str, Plain]
    level: str = Field(description="the columns that define the cell: class, kind, after, or fewer")
    class_name: str | None
    kind: str | None
    after: str | None
    n_sources: Whole
    n_edits: Whole
    q_value: float | None
    significant: bool


class WeaknessPart(OpenPart):
    """The probe's findings, with those cells that the page shows."""

    __pydantic_extra__: dict[str, JsonValue]
    classifier: str
    digest: str
    drop: str = Field(description="the measure that ranks the cells: corrected_drop or accuracy_drop")
    has_placebos: bool
    overall: CellPart | None
    by_kind: list[CellPart]
    by_strategy: list[CellPart] = Field([], description="each kind by who drew it, where several editors did")
    cells: list[CellPart] = Field(description="weakest first")
    num_cells: Whole
    num_significant: Whole
    num_confirmed: Whole


class EditDropPart(Part):
    """An arm's drop of accuracy by a kind of edit, and its change against the classifier under test."""

    drop: float | None
    drop_low: float | None
    drop_high: float | None
    change: float | None = Field(description="positive: the drop grew; null for the classifier under test")
    change_low: float | None
    change_high: float | None


class KindPart(Part):
    """Drops by a kind of edit, or by one value of it, on edits of validation sources."""

    kind: str
    value: str | None = Field(description="null: any value of the kind")
    n_sources: Whole
    n_edits: Whole
    arms: dict[str, EditDropPart]


class GroupsPart(Part):
    """Accuracy by group on the shifted test set, by arm."""

    group_by: list[str]
    dominant: dict[str, dict[str, str]]
    arms: dict[str, list[GroupAccuracy]]
    adjusted_average: dict[str, IntervalPart] = Field(
        description="mean of group accuracies weighted by their shares of the training data"
    )


class TrainedArm(OpenPart):
    """The result of one arm; of the base classifier only its accuracies."""

    __pydantic_extra__: dict[str, JsonValue]
    validation_accuracy: UnitShare | None = None
    validation_edits_accuracy: UnitShare | None = None
    history: list[dict[str, Plain]] = []


class Training(OpenPart):
    """The content of reinforce.json."""

    __pydantic_extra__: dict[str, JsonValue]
    arms: dict[str, TrainedArm]
    verdict: str
    reasons: list[str]
    settings: dict[str, JsonValue]


class NamedShare(IntervalPart):
    """A named share with its interval."""

    name: str
    n: Whole


class ScoreMedians(Part):
    """Median of one score over accepted and over rejected edits."""

    name: str
    accepted_median: float | None
    rejected_median: float | None


class AcceptRate(Part):
    """Shares of edits that the verifier accepted, that failed each check, and that failed no other."""

    by_kind: list[NamedShare]
    by_check: list[NamedShare]
    by_check_alone: list[NamedShare]
    by_score: list[ScoreMedians]


class DomainPart(Part):
    """Captions that name their class, and median sizes of sources and edits as width and height in pixels."""

    num_captions: Whole
    num_named: Whole
    source_size: list[Whole] | None
    edit_size: list[Whole] | None
    scale: float | None = Field(description="edge of an edit by that of its source, the median")
    sentence: str
    warnings: list[str]


class PairAttribution(Part):
    """Drop of p(label) from the control to the edit, and the sum of the map's cells."""

    control: str
    p_control: float
    p_edit: float
    drop: float
    sum_of_cells: float


class Example(Part):
    """One picture of the page."""

    key: str
    role: Literal["source", "placebo", "counterfactual"]
    class_name: str
    label: str
    alt: str
    accepted: bool | None
    reasons: list[str]
    scores: dict[str, float | None]


class PicturePart(Example):
    """One picture of a row, with each arm's prediction."""

    predictions: dict[str, Guess]
    attribution: dict[str, PairAttribution]


class RowPart(Part):
    """One source with its placebo and its edits."""

    source_key: str
    class_name: str
    caption: str
    split: str
    flips: Whole
    cures: Whole
    pictures: list[PicturePart]


class SummaryFile(Part):
    """The content of summary.json: every number of the report's page."""

    name: str
    verdict: Literal["ship", "do not ship", "none yet"]
    ships: str = Field(description="the arm that the verdict is about")
    reasons: list[str] = Field(description="why, most important first")
    next_steps: list[str]
    worst_group_accuracy: ArmNumbers = Field(description="by arm, on the shifted test set")
    conflict_accuracy: ArmNumbers = Field(description="by arm, on images whose attributes conflict with the class")
    accuracy_biased: ArmNumbers = Field(description="by arm, on the test set like the training data")
    comparisons: list[Comparison]
    edits_by_kind: list[KindPart]
    confidence: UnitShare
    counts: CountsPart
    rates: Rates
    seconds: dict[str, float] = Field(description="wall-clock time by phase")
    seconds_by_stage: dict[str, float] = Field(description="working time, summed over actors")
    weakness: WeaknessPart | None
    rounds: list[dict[str, JsonValue]] = Field(description="one object a round; empty for a run of one round")
    groups: GroupsPart | None
    training: Training | None
    accept_rate: AcceptRate
    domain: DomainPart
    pictures: list[RowPart]
    examples: dict[Literal["accepted", "rejected"], list[Example]]
    plan_digest: str
    revision: str
    versions: dict[str, str]


def summary_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of summary.json."""
    schema = SummaryFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "summary.json", **schema}
