"""What summary.json holds, for machines that read it: `counterforge schema --of summary` prints this as a schema.

The report writes these fields; a test holds every field of a real summary against them. Names that end in _low and
_high are the ends of the interval of the number before. null: not known, or undefined.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Plain = bool | int | float | str | None
ArmNumbers = dict[str, "Figure | None"]


class Part(BaseModel):
    """Be a part of the summary: no field but those named here."""

    model_config = ConfigDict(extra="forbid", strict=True)


class OpenPart(BaseModel):
    """Be a part that has more fields than those named here: measures by name, what a training wrote."""

    model_config = ConfigDict(extra="allow", strict=True)


class Figure(Part):
    """Hold an accuracy with its interval."""

    value: Share | None = Field(description="share of the images that were answered right")
    low: Share | None
    high: Share | None
    n: Count = Field(description="images it rests on")
    group: str | None = Field(None, description="class and attributes, where it is of one group")


class Comparison(Part):
    """Compare two arms on the same images: McNemar's test, bootstrap over sources."""

    arm: str
    against: str
    set: str = Field(description="test or shifted")
    where: str = Field(description="all images, or those in conflict")
    n: Count
    gained: Count = Field(description="images that `arm` answers right and `against` wrong")
    lost: Count
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None


class Counts(Part):
    """Count what became of the sources and the edits."""

    shards: Count
    planned_shards: Count
    sources: Count
    placebos: Count
    rejected_placebos: Count
    candidates: Count = Field(description="edits tried, without placebos")
    accepted: Count
    rejected: dict[str, Count] = Field(description="by the first check failed")
    quarantined: dict[str, Count] = Field(description="by reason")
    quarantined_candidates: Count


class Rates(Part):
    """Hold rates over the wall clock of the generate phase, where it was timed."""

    accepted_share: Share | None
    candidates_per_second: float | None
    seconds_per_accepted: float | None
    price_per_accepted: float | None = Field(
        description="at report.gpu_price_per_hour, for the GPUs while stages worked on them"
    )


class Cell(OpenPart):
    """Hold one cell of the weakness table; further numbers are measures with their intervals."""

    __pydantic_extra__: dict[str, Plain]
    level: str = Field(description="what the cell is of: class, kind, after, or less")
    class_name: str | None
    kind: str | None
    after: str | None
    n_sources: Count
    n_edits: Count
    q_value: float | None
    significant: bool


class Weakness(OpenPart):
    """Hold what the probe found, with those cells that the page shows."""

    __pydantic_extra__: dict[str, JsonValue]
    classifier: str
    digest: str
    drop: str = Field(description="the measure that the table is about: corrected_drop or accuracy_drop")
    has_placebos: bool
    overall: Cell | None
    by_kind: list[Cell]
    cells: list[Cell] = Field(description="weakest first")
    num_cells: Count
    num_significant: Count
    num_confirmed: Count


class Group(Part):
    """Hold the accuracy in one class with one value of each attribute."""

    class_name: str
    values: dict[str, str]
    n: Count
    correct: Count
    accuracy: Share | None
    low: Share | None
    high: Share | None
    conflict: bool | None = Field(description="whether it lacks its class's usual value; null: there is none")


class Adjusted(Part):
    """Hold an average of group accuracies, each weighed by its share of the training data."""

    value: Share | None
    low: Share | None
    high: Share | None


class Groups(Part):
    """Hold accuracy by group on the shifted test set, by arm."""

    group_by: list[str]
    dominant: dict[str, dict[str, str]]
    arms: dict[str, list[Group]]
    adjusted_average: dict[str, Adjusted]


class TrainedArm(OpenPart):
    """The result of one arm; of the base classifier only its accuracies."""

    __pydantic_extra__: dict[str, JsonValue]
    validation_accuracy: Share | None = None
    validation_edits_accuracy: Share | None = None
    history: list[dict[str, Plain]] = []


class Training(OpenPart):
    """Hold reinforce.json."""

    __pydantic_extra__: dict[str, JsonValue]
    arms: dict[str, TrainedArm]
    verdict: str
    reasons: list[str]
    settings: dict[str, JsonValue]


class NamedShare(Part):
    """Hold a share with its interval and its name."""

    name: str
    value: Share | None
    low: Share | None
    high: Share | None
    n: Count


class ScoreMedians(Part):
    """Hold the median of one score over accepted and over rejected edits."""

    name: str
    accepted_median: float | None
    rejected_median: float | None


class AcceptRate(Part):
    """Hold what the verifier kept."""

    by_kind: list[NamedShare]
    by_check: list[NamedShare]
    by_score: list[ScoreMedians]


class Prediction(Part):
    """Hold one classifier's answer to one picture."""

    class_name: str
    confidence: float
    right: bool


class PairAttribution(Part):
    """Say how far p(label) fell from the control to the edit, and how much of it single cells explain."""

    control: str
    p_control: float
    p_edit: float
    drop: float
    sum_of_cells: float


class Example(Part):
    """Hold one picture of the page."""

    key: str
    role: Literal["source", "placebo", "counterfactual"]
    class_name: str
    label: str
    alt: str
    accepted: bool | None
    reasons: list[str]
    scores: dict[str, float | None]


class Picture(Example):
    """Hold one picture of a row, with what the arms said of it."""

    predictions: dict[str, Prediction]
    attribution: dict[str, PairAttribution]


class Row(Part):
    """Hold one source with its placebo and its edits."""

    source_key: str
    class_name: str
    caption: str
    split: str
    flips: Count
    cures: Count
    pictures: list[Picture]


class Examples(Part):
    """Hold edits that the verifier kept and refused."""

    accepted: list[Example]
    rejected: list[Example]


class SummaryFile(Part):
    """Describe summary.json: every number of the report's page."""

    name: str
    verdict: Literal["ship", "do not ship", "none yet"]
    reasons: list[str] = Field(description="why, most important first")
    next_steps: list[str]
    worst_group_accuracy: ArmNumbers = Field(description="by arm, on the shifted test set")
    conflict_accuracy: ArmNumbers = Field(description="by arm, where an image lacks its class's usual attribute")
    accuracy_biased: ArmNumbers = Field(description="by arm, on the test set like the training data")
    comparisons: list[Comparison]
    confidence: Share
    counts: Counts
    rates: Rates
    seconds: dict[str, float] = Field(description="wall clock by phase")
    seconds_by_stage: dict[str, float] = Field(description="working time, added up over actors")
    weakness: Weakness | None
    rounds: list[dict[str, JsonValue]] = Field(description="one object a round, none where there was one round")
    groups: Groups | None
    training: Training | None
    accept_rate: AcceptRate
    pictures: list[Row]
    examples: Examples
    plan_digest: str
    revision: str
    versions: dict[str, str]


def summary_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of summary.json."""
    schema = SummaryFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "summary.json", **schema}
