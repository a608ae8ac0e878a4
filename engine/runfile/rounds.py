"""The configuration of `rounds`."""

from pydantic import Field

from engine.runfile.fields import Config


class RoundsConfig(Config):
    """Edit validation sources in a first round, and train sources in later ones, each where the classifier is weak."""

    count: int = Field(
        1,
        ge=1,
        description="number of rounds; 1: every edit as stages.<perturber>.edits says; 2: those of train sources where "
        "the classifier is weak on validation edits; 3 or more: in parts, with a training before each but the first",
    )
    floor: float = Field(
        0.1, ge=0, le=1, description="least share of a class's edits that each listed kind keeps, weak or not"
    )
    cap: float = Field(
        0.25, gt=0, le=1, description="most of a class's edits that one value at one severity gets, however weak"
    )
