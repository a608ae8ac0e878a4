"""The section `probe` of the run file."""

from pydantic import Field, model_validator

from engine.runfile.fields import Config, ModelConfig, Placement


class ProbeConfig(Config):
    """Measure where the classifier fails."""

    model: ModelConfig | None = Field(None, description="any image classification checkpoint")
    callable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:function, a black box instead of `model`",
    )
    batch_size: int = Field(64, ge=1)
    placement: Placement = Placement()
    confidence: float = Field(0.95, gt=0.5, lt=1)
    num_bootstraps: int = Field(1000, ge=100)
    min_sources: int = Field(10, ge=2, description="cells with fewer sources are not reported")
    min_drop: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="a cell is a weakness where its edits cost clearly more accuracy than this beyond the placebo: "
        "making an edit disturbs a picture more than making none, which a clean classifier feels too",
    )
    transfer: tuple[ModelConfig, ...] = Field(
        (),
        description="other classifiers, asked about the same pictures: is what the first fails at hard for them too?",
    )

    @model_validator(mode="after")
    def _one(self) -> "ProbeConfig":
        if (self.model is None) == (self.callable is None):
            raise ValueError("give exactly one of probe.model and probe.callable")
        return self
