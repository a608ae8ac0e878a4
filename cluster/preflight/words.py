"""Checks of words: those that name classes, or no stage sees that an edit replaces the main object, and grounds."""

from collections.abc import Iterator, Mapping, Sequence

from engine.errors import RunFileError, SourceError, UserError
from engine.names import class_words, named_class, names_class, nfc
from engine.plan.plan import Plan
from engine.runfile.editor import CompositorConfig
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.runfile.stages import words_of_classes
from engine.runfile.verifier import VerifierConfig
from engine.sources import open_source
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


def check_grounds(run: RunFile, plan: Plan) -> Iterator[str | UserError]:
    """Yield which photographs of grounds are missing, and which listed values no ground is called by."""
    perturbers = [stage for stage in run.stages.values() if isinstance(stage, PerturberConfig)]
    for stage, config in run.stages.items():
        if not isinstance(config, CompositorConfig) or config.grounds is None:
            continue
        field = f"stages.{stage}.grounds"
        try:
            names = {item.class_name for item in open_source(config.grounds).items()}
        except SourceError as error:
            yield SourceError(f"{field}: {error}")
            continue
        if not names:
            yield SourceError(f"{field}: there is no photograph in it: name a folder such as grounds/beach/*.jpg")
            continue
        words = {name: class_words(name) for name in names}
        listed = [
            value
            for perturber in perturbers
            for kind, values in perturber.values.items()
            if {stage, ""} & set(perturber.strategies_of(kind))
            for value in values
        ]
        if unknown := [value for value in listed if named_class(value, words) is None]:
            yield RunFileError(
                f"{field}: {name_some(unknown)} of the perturber's values names no ground, so that such edits would be "
                f"given up; there are {name_some(sorted(names))}: add photographs, or leave the value out"
            )


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
