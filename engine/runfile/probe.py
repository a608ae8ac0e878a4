"""The section `probe` of the run file."""

from typing import Annotated

from pydantic import Field, model_validator

from engine.runfile.fields import PATH, Config, ModelConfig, Placement


class ProbeConfig(Config):
    """Measure where the classifier fails."""

    model: ModelConfig | None = Field(None, description="any image classification checkpoint")
    callable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="package.module:function, a black box instead of `model`. It gets a list of RGB images of PIL, and "
        "as `classes` the names of the run's classes where it takes that, and returns probabilities (num_images, "
        "num_classes), columns in the order in which `counterforge plan` prints the classes. A wrong order shows as an "
        "accuracy near 0 %",
    )
    files: Annotated[tuple[str, ...], PATH] = Field(
        (),
        description="files or folders that decide what `callable` answers, such as [model.onnx]: it is known by its "
        "source file and by what is in these. Where one changes, it is asked anew",
    )
    version: str | int | None = Field(
        None, description="a name for what `callable` answers now, where no file says it: another one asks it anew"
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
        if self.callable is None and (self.files or self.version is not None):
            raise ValueError("files and version go with probe.callable: a checkpoint is known by its own files")
        return self
