"""What all settings share, and where a model is that is served elsewhere."""

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator


class Config(BaseModel):
    """Refuse unknown fields and changes after validation."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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
