"""What sections of the run file share: the strict model, placement, models and servers."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, field_validator, model_validator

from engine.names import nfc

# In the metadata of a field: a path, relative to the run file.
PATH = "path"


class Config(BaseModel):
    """Refuse unknown fields and changes after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def changes(self, *left_out: str) -> dict[str, JsonValue]:
        """Return the fields that differ from their defaults, and `kind`, as JSON; nested ones in the same way.

        What is hashed of settings is this: a new field with a default leaves the hash of old settings as it was.
        """
        fields = type(self).model_fields
        return {
            name: _plain(value)
            for name, value in self
            if name not in left_out and (name == "kind" or value != fields[name].get_default(call_default_factory=True))
        }


def _plain(value: object) -> JsonValue:
    if isinstance(value, Config):
        return value.changes()
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    assert value is None or isinstance(value, bool | int | float | str)  # what a YAML file can hold
    return value


class ServerConfig(Config):
    """Say where a model is served with OpenAI's API, which vLLM, SGLang, Ray Serve and `transformers serve` have.

    The stage then loads nothing and needs no GPU. A server answers the same question in other words the next time: a
    run that is made again has other edits, and shards that are done stay as they are.
    """

    url: str = Field(description="such as http://gpu-7:8000/v1; requests go to {url}/chat/completions")
    num_requests: int = Field(64, ge=1, description="requests of one actor under way at once; the server batches them")
    timeout_s: float = Field(300.0, gt=0, description="seconds to wait for one answer")
    key_variable: str = Field(
        "OPENAI_API_KEY", description="the environment variable that holds the key, where the server wants one"
    )
    extra: dict[str, JsonValue] = Field(
        {}, description="more fields of each request, such as chat_template_kwargs: {enable_thinking: false}"
    )

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url {url!r} must begin with http:// or https://, such as http://gpu-7:8000/v1")
        return url.rstrip("/")


class Placement(Config):
    """Say where the actors of a stage run. Never part of a stage's logic."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where num_gpus > 0, else the CPU")
    num_cpus: float = Field(1.0, ge=0, description="CPU cores of one actor; each reads images in a thread")
    num_gpus: float = Field(0.0, ge=0, description="GPUs for one actor; a fraction shares one GPU")
    replicas: tuple[int, int] = Field((1, 1), description="smallest and largest number of actors [min, max]")
    num_threads: int = Field(
        1, ge=1, description="threads of one actor: fixed, so that bytes do not depend on a machine's number of cores"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Placement":
        low, high = self.replicas
        if not 1 <= low <= high:
            raise ValueError(f"replicas must be [min, max] with 1 <= min <= max, got [{low}, {high}]")
        if self.device == "cpu" and self.num_gpus:
            raise ValueError(f"device is cpu but num_gpus is {self.num_gpus}: set one of the two")
        if self.device == "cuda" and not self.num_gpus:
            raise ValueError("device is cuda but num_gpus is 0: set num_gpus to 1 or to a fraction")
        return self


class StageConfig(Config):
    """Hold what every stage has."""

    placement: Placement = Placement()
    batch_size: int = Field(16, ge=1, description="samples in one forward pass; batches are padded to this one shape")


class ModelConfig(Config):
    """Name a model: a local folder, a hub id or an alias such as zoo/editor."""

    name: str = Field(description="local folder, hub id, or alias (zoo/captioner, zoo/perturber, ...)")
    revision: str | None = Field(None, description="commit of a hub id; pin it, names move")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"


AttentionKernel = Literal["default", "sdpa", "flash", "xformers"]


CompileMode = Literal["off", "default", "max-autotune"]


def _words_by_name(value: object) -> object:
    """Return words by class name as texts: YAML reads `7: [sneaker]` and `n01440764: tench` otherwise."""
    if not isinstance(value, dict):
        return value
    words = {nfc(str(name)): each.split(",") if isinstance(each, str) else each for name, each in value.items()}
    return {
        name: [str(word).strip() for word in each] if isinstance(each, list | tuple) else each
        for name, each in words.items()
    }


ClassWords = Annotated[
    dict[str, Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]],
    BeforeValidator(_words_by_name),
]
