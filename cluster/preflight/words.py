"""Checks of the words that name the classes: without them no stage sees that an edit replaces the main object."""

from collections.abc import Iterator, Mapping, Sequence

from engine.errors import RunFileError, UserError
from engine.names import class_words, names_class, nfc
from engine.plan.plan import Plan
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.runfile.stages import words_of_classes
from engine.runfile.verifier import VerifierConfig
from engine.wording import name_some


def check_class_words(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield words of unknown classes, classes without a word, and how many captions do not name their class."""
    given = words_of_classes(run.stages)
    wordless = [name for name in plan.classes if not class_words(name, given)]
    for stage, config in run.stages.items():
        field = f"stages.{stage}.class_words"
        if isinstance(config, VerifierConfig) and config.min_class is not None and wordless:
            yield RunFileError(
                f"stages.{stage}.min_class: {name_some(wordless)} is no word that a picture can be asked for: give the "
                "words in class_words of the perturber"
            )
        if not isinstance(config, PerturberConfig):
            continue
        if unknown := sorted(set(given) - set(map(nfc, plan.classes))):
            yield RunFileError(
                f"{field}: {name_some(unknown)}: no class of the run has this name, it has {name_some(plan.classes)}"
            )
        if wordless:
            yield (
                f"{field}: no caption can name {name_some(wordless)}, so an edit that replaces the main object is not "
                f"refused: give the words, as in {{{wordless[0]}: [tench]}}"
            )
        elif plan.num_shards:
            yield from _unnamed(plan, given)


def _unnamed(plan: Plan, given: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield how many captions of the first shard do not name their class, if they come with the data."""
    items = [item for item, _ in plan.shard(0) if item.caption]
    unnamed = [item for item in items if not names_class(item.caption, class_words(item.class_name, given))]
    if unnamed:
        yield (
            f"{len(unnamed)} of the {len(items)} captions of the first shard do not name their class, such as "
            f"{unnamed[0].caption!r} of {unnamed[0].class_name!r}: an edit that replaces the main object is not "
            "refused there; give the words that captions use in class_words, or ask the verifier with min_class"
        )
