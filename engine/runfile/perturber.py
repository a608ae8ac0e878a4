"""The configuration of a perturber stage."""

import difflib
from typing import Literal

from pydantic import Field, model_validator

from engine.runfile.fields import AttentionKernel, ClassWords, Config, ModelConfig, ServerConfig, StageConfig
from engine.sample import KINDS_JOINT, EditKind

# What an edit of each kind may change, in the words of the prompt.
KINDS: dict[EditKind, str] = {
    "background": "the place or surface behind or under the main object",
    "colour": "the colour of the main object",
    "object": "another thing in the picture, never the main object",
    "removal": "one thing beside the main object is taken away and nothing is put in its place",
    "weather": "the weather",
    "lighting": "the light: its time of day, direction, colour or strength",
    "domain": "the kind of picture: sketch, painting, cartoon, X-ray and so on",
    "viewpoint": "where the camera stands: angle, distance, height",
    "adjective": "one adjective that describes the main object, such as its size, age, material or pattern",
}

# The kind whose edits put nothing in: its `after` is "no" and the thing, as in `no ball`.
REMOVAL = "removal"
# In `strategies`: kinds that are not named.
OTHERS = "*"


class PerturberConfig(StageConfig):
    """Name the edits of each caption, plus a placebo for each source: a language model invents them.

    Of kinds whose `values` are listed the edits are made by rule.
    """

    kind: Literal["perturber"] = "perturber"
    model: ModelConfig | None = Field(
        None, description="a causal language model with a chat template; not needed where `values` lists every kind"
    )
    server: ServerConfig | None = Field(None, description="where the model is served; default: it is loaded here")
    edits: dict[EditKind, int] = Field(
        {"background": 2, "colour": 1}, description="edits of each kind for one source; the placebo is added by itself"
    )
    kinds: dict[EditKind, str] = Field(
        {},
        description="kinds of edits of your own: a name, and in words what such an edit may change, as in "
        "`{headwear: what the person wears on the head}`; then name it in `edits`",
    )
    values: dict[EditKind, tuple[str, ...]] = Field(
        {},
        description="kinds that no language model is asked about, with their values, as in `{background: [grass, snow],"
        " removal: [ball]}`: the value that a caption names becomes another one, or of a removal is taken away; a "
        "caption that names none gets no such edit",
    )
    class_words: ClassWords = Field(
        {},
        description="the words by which captions name a class, where its name is an id or captions say it otherwise, "
        "as in `{n01440764: [tench], 7: [sneaker, trainer]}`; prompts say the first, and no edit may replace any",
    )
    placebo: bool = Field(
        True,
        description="also make the edit that changes nothing, one by each editor, to measure the generator itself",
    )
    strategies: dict[EditKind, tuple[str, ...]] = Field(
        {},
        description="by which editors edits of a kind are drawn, by the names of their stages; each edit by each of "
        "them. `*` is for all other kinds, as in `{background: [instruct, swap], '*': [instruct]}`. Default: by the "
        "run's only editor",
    )
    turns: dict[EditKind, tuple[EditKind, ...]] = Field(
        {},
        description="changes that follow on an edit's picture, each an edit of its own, as in `{background: [colour]}`:"
        " after an edit of background its colour is changed too, by the same editor and beside a placebo that is drawn "
        "as often. Its kind is `background+colour`",
    )
    severities: tuple[float, ...] = Field(
        (1.0,), description="each edit is made at each of these severities, in (0, 1]"
    )
    temperature: float = Field(1.0, gt=0)
    max_new_tokens: int = Field(96, ge=1)
    retries: int = Field(1, ge=0, description="more attempts after a reply that is not valid or repeats an edit")
    attention: AttentionKernel = "default"

    @model_validator(mode="after")
    def _possible(self) -> "PerturberConfig":
        if "placebo" in self.edits:
            raise ValueError("edits.placebo: set `placebo: true` instead; there is one placebo for each source")
        self._check_kinds()
        for kind, values in self.values.items():
            if kind not in self.asked:
                raise ValueError(f"values.{kind}: `edits` asks for no such edit; it has {', '.join(self.asked)}")
            if len(set(values)) < (1 if kind == REMOVAL else 2):
                raise ValueError(f"values.{kind}: a value becomes another one: list two or more")
        if self.model is None and (invented := [kind for kind in self.asked if kind not in self.values]):
            raise ValueError(
                f"edits of kind {invented[0]} are invented by a language model, and `model` is missing: name one, or "
                f"list values.{invented[0]}"
            )
        if any(count < 0 for count in self.edits.values()):
            raise ValueError("edits: a count cannot be negative")
        for kind in self.strategies:
            if kind not in self.edits and kind != OTHERS:
                raise ValueError(f"strategies.{kind}: `edits` asks for no such edit; it has {', '.join(self.edits)}")
        if self.strategies and (missing := [kind for kind in self.edits if not self.strategies_of(kind)]):
            raise ValueError(f"strategies: who draws edits of kind {missing[0]}? Name an editor, or one for `*`")
        if not all(0 < severity <= 1 for severity in self.severities):
            raise ValueError(f"severities must be in (0, 1], got {list(self.severities)}")
        return self

    def _check_kinds(self) -> None:
        later_kinds = (later for kinds in self.turns.values() for later in kinds)
        for field, kind in (*(("edits", kind) for kind in self.edits), *(("turns", kind) for kind in later_kinds)):
            if kind not in KINDS and kind not in self.kinds:
                near = difflib.get_close_matches(kind, [*KINDS, *self.kinds], n=1)
                raise ValueError(
                    f"{field}.{kind}: no kind has this name{f', did you mean {near[0]}?' if near else ''}; there are "
                    f"{', '.join([*KINDS, *self.kinds])}. For one of your own say in `kinds` what it may change"
                )
        if joined := [kind for kind in self.kinds if KINDS_JOINT in kind]:
            raise ValueError(f"kinds.{joined[0]}: {KINDS_JOINT} joins the kinds of several turns: choose another name")
        for kind in self.turns:
            if not self.edits.get(kind):
                raise ValueError(f"turns.{kind}: `edits` asks for no such edit; it has {', '.join(self.edits)}")

    @property
    def chat_model(self) -> ModelConfig:
        """Return the language model of a perturber that has one: of all that does not list its values."""
        assert self.model is not None
        return self.model

    @property
    def asked(self) -> dict[EditKind, int]:
        """Return how many changes of each kind a source is asked for, those of later turns with the others."""
        numbers = dict(self.edits)
        for kind, later_kinds in self.turns.items():
            for later in later_kinds:
                numbers[later] = numbers.get(later, 0) + self.edits[kind]
        return numbers

    def strategies_of(self, kind: EditKind) -> tuple[str, ...]:
        """Return the editors that draw edits of a kind, by name; "" is the run's only one."""
        return self.strategies.get(kind, self.strategies.get(OTHERS, ())) if self.strategies else ("",)

    @property
    def editors(self) -> tuple[str, ...]:
        """Return the editors that draw any edit, in the order in which they are named; "" is the run's only one."""
        wanted = [kind for kind, count in self.edits.items() if count]
        return tuple(dict.fromkeys(name for kind in wanted for name in self.strategies_of(kind)))

    def num_edits(self, editor: str | None = None) -> int:
        """Return the number of edits of one source, those of one editor or of all; each turn is an edit."""
        by_kind = (
            count * sum(editor in (None, name) for name in self.strategies_of(kind)) * self.num_turns(kind)
            for kind, count in self.edits.items()
        )
        return sum(by_kind) * len(self.severities)

    def num_turns(self, kind: EditKind) -> int:
        """Return the number of turns of an edit that begins with a kind."""
        return 1 + len(self.turns.get(kind, ()))

    def num_placebos(self, editor: str | None = None) -> int:
        """Return the number of placebos of one source, those of one editor or of all: one for each number of turns."""
        if not self.placebo:
            return 0
        if editor is None:
            return sum(map(self.num_placebos, self.editors))
        wanted = [kind for kind, count in self.edits.items() if count and editor in self.strategies_of(kind)]
        return max(map(self.num_turns, wanted), default=0)


class WantedEdit(Config):
    """Hold the share of a class's edits that goes to one kind, value (null: any) and severity."""

    kind: EditKind
    value: str | None
    severity: float
    share: float


class AllocatedPerturberConfig(PerturberConfig):
    """Spend the same number of edits by an allocation, named by its hash. No run file says so: a round does."""

    allocation: str
    wanted: dict[str, tuple[WantedEdit, ...]]
