"""What the language model is told: the form of its answer and what each kind of edit means."""

from collections.abc import Mapping
from typing import NamedTuple

from engine.runfile.perturber import KINDS, REMOVAL
from engine.sample import EditKind

SYSTEM = """You invent one small change to a photograph from its caption, to test whether an image classifier still \
recognises the main object.

Answer with exactly one JSON object and nothing else, with these four string keys:
"before": {before}
"after": {after}
"caption": the whole new caption, with only that change made
"instruction": the change as a short command to a picture editor

Rules:
- Change only what is asked for: {meaning}.
- The class word "{class_name}" stays in the caption as it is; "before" and "after" never contain it.
- The change must be visible in a photograph and plausible, and "after" must differ from "before".
- Be inventive: other people answer the same question, and the answers should differ.

Example for the caption "{example_caption}", class "bicycle", change "{example_kind}":
{example}"""

# A system message, because the zoo's language model reads the user's alone and was trained on its exact form.
WANTED = 'This time "after" should be "{wanted}", unless that is not plausible here.'


class Form(NamedTuple):
    """How an answer is to look: what its keys `before` and `after` hold, and an example of a kind."""

    before: str
    after: str
    kind: EditKind
    caption: str
    answer: str


IN_CAPTION = Form(
    before="the words of the caption that change, copied exactly",
    after="the words that replace them",
    kind="background",
    caption="a photo of a red bicycle on a road",
    answer='{"before": "a road", "after": "a sandy beach", "caption": "a photo of a red bicycle on a sandy beach", '
    '"instruction": "put the bicycle on a sandy beach"}',
)
BESIDE_CAPTION = Form(
    before="what the picture shows now, in a few words",
    after=IN_CAPTION.after,
    kind="weather",
    caption=IN_CAPTION.caption,
    answer='{"before": "clear weather", "after": "thick fog", '
    '"caption": "a photo of a red bicycle on a road in thick fog", "instruction": "make it foggy"}',
)
TAKEN_AWAY = Form(
    before=IN_CAPTION.before,
    after='the word "no" and what is taken away',
    kind=REMOVAL,
    caption="a photo of a red bicycle and a dog on a road",
    answer='{"before": "a dog", "after": "no dog", "caption": "a photo of a red bicycle on a road", '
    '"instruction": "remove the dog"}',
)


def system_prompt(
    kind: EditKind, class_name: str, wanted: str | None = None, own_kinds: Mapping[EditKind, str] = KINDS
) -> str:
    """Return the system message for one kind of edit, with the value that is wanted, where one is.

    `own_kinds` says what edits of the run file's own kinds may change.
    """
    from actors.perturber.replies import WORD_KINDS

    form = TAKEN_AWAY if kind == REMOVAL else IN_CAPTION if kind in WORD_KINDS else BESIDE_CAPTION
    prompt = SYSTEM.format(
        meaning=own_kinds.get(kind) or KINDS[kind],
        class_name=class_name,
        before=form.before,
        after=form.after,
        example_kind=form.kind,
        example_caption=form.caption,
        example=form.answer,
    )
    return prompt if wanted is None else f"{prompt}\n\n{WANTED.format(wanted=wanted)}"


def user_prompt(caption: str, class_name: str, kind: EditKind) -> str:
    """Return the user message; the zoo's language model is trained on exactly this form."""
    return f"caption: {caption}\nclass: {class_name}\nchange: {kind}"
