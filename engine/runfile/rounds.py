"""The configuration of `rounds`."""

from pydantic import Field

from engine.runfile.fields import Config


class RoundsConfig(Config):
    """Make the edits of train sources in rounds: each goes where the classifier is weak after the round before."""

    count: int = Field(1, ge=1, description="number of rounds; 1: every edit as stages.<perturber>.edits says")
    floor: float = Field(
        0.1, ge=0, le=1, description="least share of a class's edits that each listed kind keeps, weak or not"
    )
    cap: float = Field(
        0.25, gt=0, le=1, description="most of a class's edits that one value at one severity gets, however weak"
    )
