"""What the language model is told: the form of its answer and what each kind of edit means."""

from collections.abc import Mapping

from engine.runfile.perturber import KINDS
from engine.sample import EditKind

SYSTEM = """You invent one small change to a photograph from its caption, to test whether an image classifier still \
recognises the main object.

Answer with exactly one JSON object and nothing else, with these four string keys:
"before": the words of the caption that change, copied exactly
"after": the words that replace them
"caption": the whole new caption, with only that change made
"instruction": the change as a short command to a picture editor

Rules:
- Change only what is asked for: {meaning}.
- The class word "{class_name}" stays in the caption as it is; "before" and "after" never contain it.
- The change must be visible in a photograph and plausible, and "after" must differ from "before".
- Be inventive: other people answer the same question, and the answers should differ.

Example for the caption "a photo of a red bicycle on a road", class "bicycle", change "{example_kind}":
{example}"""

# A system message, because the zoo's language model reads the user's alone and was trained on its exact form.
WANTED = 'This time "after" should be "{wanted}", unless that is not plausible here.'

BACKGROUND_EXAMPLE = (
    '{"before": "a road", "after": "a sandy beach", "caption": "a photo of a red bicycle on a sandy beach", '
    '"instruction": "put the bicycle on a sandy beach"}'
)
WEATHER_EXAMPLE = (
    '{"before": "clear weather", "after": "thick fog", "caption": "a photo of a red bicycle on a road in thick fog", '
    '"instruction": "make it foggy"}'
)


def system_prompt(
    kind: EditKind, class_name: str, wanted: str | None = None, own_kinds: Mapping[EditKind, str] = KINDS
) -> str:
    """Return the system message for one kind of edit, with the value that is wanted, where one is.

    `own_kinds` says what edits of the run file's own kinds may change.
    """
    from actors.perturber.replies import WORD_KINDS

    in_caption = kind in WORD_KINDS
    text = SYSTEM if in_caption else SYSTEM.replace(
        "the words of the caption that change, copied exactly", "what the picture shows now, in a few words"
    )  # fmt: skip
    prompt = text.format(
        meaning=own_kinds.get(kind) or KINDS[kind],
        class_name=class_name,
        example_kind="background" if in_caption else "weather",
        example=BACKGROUND_EXAMPLE if in_caption else WEATHER_EXAMPLE,
    )
    return prompt if wanted is None else f"{prompt}\n\n{WANTED.format(wanted=wanted)}"


def user_prompt(caption: str, class_name: str, kind: EditKind) -> str:
    """Return the user message; the zoo's language model is trained on exactly this form."""
    return f"caption: {caption}\nclass: {class_name}\nchange: {kind}"
