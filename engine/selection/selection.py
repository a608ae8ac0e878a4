"""Selection: the edits that other verifier thresholds would accept, from the stored scores of a run."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import SelectionError
from engine.run.directory import RunDirectory
from engine.runfile.load import parse_override
from engine.runfile.run import RunFile
from engine.runfile.verifier import DECIDING, RuleConfig, VerifierConfig, settings_of
from engine.sample import Role, Verdict
from engine.shards.record import SCORE, mapping_of
from engine.shards.rows import join_candidates
from engine.verdicts.rule import EARLY, is_early, verdict_of

# The reason of an edit that passes but was rejected before, when its picture was not kept.
PIXELS_NOT_KEPT = "pixels_not_kept"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One scored edit; `verdict` is the stored one.

    Edits whose sources share a `split_key` (a garment, a person) are not independent.
    """

    key: str
    source_key: str
    split_key: str
    role: Role
    edit_kind: str
    scores: dict[str, float]
    text_changes: bool
    verdict: Verdict
    has_pixels: bool

    def verdict_by(self, config: VerifierConfig) -> Verdict:
        """Return the verdict by these thresholds; an edit without pixels cannot be accepted.

        An edit that was dropped early has no final scores, so it keeps its verdict.
        """
        if is_early(self.verdict):
            return self.verdict
        return judge(self.scores, config, text_changes=self.text_changes, has_pixels=self.has_pixels)


@dataclass(frozen=True, kw_only=True)
class VerdictCounts:
    """Numbers of verdicts: by check, the edits that fail it (`fails`) and those that fail no other (`fails_alone`)."""

    n: int
    accepted: int
    fails: Counter[str]
    fails_alone: Counter[str]

    @property
    def accept_rate(self) -> float | None:
        """Return the share of accepted edits, None without edits."""
        return self.accepted / self.n if self.n else None


@dataclass(frozen=True, kw_only=True)
class Change:
    """Verdicts of two sets of thresholds on the same edits."""

    name: str
    before: VerdictCounts
    after: VerdictCounts


def read_scored(rundir: RunDirectory) -> list[Candidate]:
    """Return every scored edit of the finished shards.

    Raises SelectionError where there is none, or where an edit has no verdict.
    """
    split_keys = rundir.plan().split_keys()
    keeps_all = rundir.info.keep_rejected == "all"
    candidates: list[Candidate] = []
    for index in rundir.done():
        rows = join_candidates([rundir.read_rows(index)]).to_pylist()
        candidates += [
            Candidate(
                key=row["key"],
                source_key=row["source_key"],
                split_key=split_keys[row["source_key"]],
                role=row["role"],
                edit_kind=row["edit_kind"],
                scores=mapping_of(row, SCORE),
                text_changes=row["edit_caption"] != row["caption"],
                verdict=Verdict(accepted=bool(row["accepted"]), reasons=tuple(row["reasons"])),
                has_pixels=bool(row["accepted"]) or (keeps_all and EARLY not in row["reasons"]),
            )
            for row in rows
        ]
    if not candidates:
        raise SelectionError(f"{rundir.storage} has no scored edit yet: run `counterforge generate` first")
    return candidates


def verifier_name(run: RunFile) -> str:
    """Return the name of the last verifier stage, whose verdict counts. SelectionError where there is none."""
    names = [name for name, stage in run.stages.items() if isinstance(stage, VerifierConfig)]
    if not names:
        raise SelectionError(
            f"run {run.name!r} has no verifier stage, so its edits have no scores with thresholds: add a stage of kind "
            "verifier to the run file and generate in a new folder"
        )
    return names[-1]


def thresholds_of(run: RunFile) -> VerifierConfig:
    """Return the thresholds of a run."""
    stage = run.stages[verifier_name(run)]
    assert isinstance(stage, VerifierConfig)
    return stage


def change_thresholds(rundir: RunDirectory, settings: Sequence[str]) -> RunFile:
    """Return the run file with settings such as `min_image=0.6`, or `stages.verifier.min_image=0.6`.

    Raises SelectionError for a setting that is neither a floor nor of the rule, RunFileError for a value that it cannot
    have.
    """
    name = verifier_name(rundir.run())
    overrides = []
    for text in settings:
        path = parse_override(text).path
        own = path[2:] if path[:2] == ("stages", name) else path
        if own[0] not in DECIDING:
            raise SelectionError(
                f"--set {text}: select changes what decides alone: {', '.join(DECIDING)}, such as --set min_image=0.6 "
                "or --set rule.at_least=2; anything else needs new images: change the run file and run it with a new "
                "--out"
            )
        overrides.append(text if own != path else f"stages.{name}.{text}")
    run = rundir.run(overrides)
    before, after = (thresholds_of(each).min_class is None for each in (rundir.run(), run))
    if before != after:
        remedy = "set it in the run file, for a new --out" if before else "with -1 every edit passes"
        raise SelectionError(f"--set min_class: select makes no scores and takes none away: {remedy}")
    return run


def describe_thresholds(config: VerifierConfig) -> dict[str, str]:
    """Return what decides as text, as in a run file."""
    found = {name: str(value).lower() for name, value in settings_of(config).items()}
    if config.rule != RuleConfig():
        found |= {f"rule.{name}": json.dumps(value) for name, value in config.rule.changes().items()}
    return found


def check_verdicts(candidates: Sequence[Candidate], config: VerifierConfig) -> None:
    """Refuse a run whose recorded verdicts do not follow from its scores: then it is not the verifier that decides."""
    others = [candidate.key for candidate in candidates if candidate.verdict != candidate.verdict_by(config)]
    if others:
        raise SelectionError(
            f"{len(others)} of {len(candidates)} verdicts on record are not what the verifier's thresholds in run.yaml "
            f"give, the first is of {others[0]}: a stage after the verifier decides, or run.yaml was changed by hand. "
            "Restore run.yaml; where another stage decides, change that stage and generate in a new folder"
        )


def tally_changes(candidates: Sequence[Candidate], before: VerifierConfig, after: VerifierConfig) -> list[Change]:
    """Compare thresholds on all counterfactuals, on each kind of edit, and on the placebos."""
    edits = [candidate for candidate in candidates if candidate.role == "counterfactual"]
    groups = {"counterfactuals": edits}
    groups |= {
        kind: [edit for edit in edits if edit.edit_kind == kind] for kind in sorted({e.edit_kind for e in edits})
    }
    groups["placebos"] = [candidate for candidate in candidates if candidate.role == "placebo"]
    return [
        Change(
            name=name,
            before=tally(candidate.verdict_by(before) for candidate in group),
            after=tally(candidate.verdict_by(after) for candidate in group),
        )
        for name, group in groups.items()
        if group
    ]


def tally(verdicts: Iterable[Verdict]) -> VerdictCounts:
    """Count verdicts by the checks that they name."""
    every = list(verdicts)
    return VerdictCounts(
        n=len(every),
        accepted=sum(verdict.accepted for verdict in every),
        fails=Counter(reason for verdict in every for reason in verdict.reasons),
        fails_alone=Counter(verdict.reasons[0] for verdict in every if len(verdict.reasons) == 1),
    )


def judge(scores: Mapping[str, float], config: VerifierConfig, *, text_changes: bool, has_pixels: bool) -> Verdict:
    """Return the verdict by thresholds; an edit that passes without pixels is rejected as PIXELS_NOT_KEPT."""
    verdict = verdict_of(scores, config, text_changes=text_changes)
    if verdict.accepted and not has_pixels:
        return Verdict(accepted=False, reasons=(PIXELS_NOT_KEPT,))
    return verdict
