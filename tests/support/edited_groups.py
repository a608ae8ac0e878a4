"""A source with its placebo and one edit, as they come to a verifier."""

from dataclasses import replace

from tiny_models import jpeg

from engine.sample import Edit, Sample


def group(key: str, *, image: bytes | None = None) -> list[Sample]:
    """Return a source, its placebo and one edit with images."""
    source = Sample(
        key=key, source_key=key, role="source", image=jpeg(seed=1), label=0, class_name="sneaker", split="train",
        caption="a red sneaker on grass",
    )  # fmt: skip
    same = Edit(kind="placebo", before="x", after="x", instruction="keep", caption=source.caption)
    edit = Edit(kind="background", before="grass", after="sand", instruction="put", caption="a red sneaker on sand")
    return [
        source,
        replace(source, key=f"{key}_placebo", role="placebo", image=jpeg(seed=2), edit=same),
        replace(
            source, key=f"{key}_cf00", role="counterfactual", image=image or jpeg((30, 30, 200), seed=3), edit=edit
        ),
    ]
