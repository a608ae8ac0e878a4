"""Attribution maps of the worst pairs of a run: the image regions where an edit changed the prediction."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from cluster.phases.arms import arm_refs
from cluster.phases.classifiers import ClassifierRef, Panel, Question, ask
from engine.probe.attribution import Attribution
from engine.report.results import read_digests, read_results
from engine.report.shown import choose_shown, worst_pairs
from engine.report.views.attribution import read_attributions, write_attributions
from engine.run.directory import RunDirectory
from engine.runfile.arms import BASE
from engine.runfile.run import RunFile
from engine.sample import Sample

if TYPE_CHECKING:
    from actors.classifier.classifier import Classifier

LOG = logging.getLogger(__name__)


def attribute_run(run: RunFile, rundir: RunDirectory, arms: Sequence[str] | None = None) -> None:
    """Write attribution/<digest>.json for each of these arms that exists, for the pairs that the report shows.

    By default for the two whose answers stand below each picture: the base classifier and the arm that may ship.
    Existing maps are kept. Raises ModelError.
    """
    arms = arms or (BASE, run.reinforce.ships)
    if not run.report.num_attributions:
        return
    shown = choose_shown(rundir, run, read_digests(read_results(rundir, run)))
    pairs = worst_pairs(shown.rows, run.report.num_attributions)
    for arm, ref in arm_refs(run, rundir).items():
        if arm in arms and pairs:
            attribute_pairs(ref, rundir, pairs)


def attribute_pairs(ref: ClassifierRef, rundir: RunDirectory, pairs: Sequence[tuple[Sample, Sample]]) -> None:
    """Add the missing maps of the pairs (edit, control) to those of one classifier."""
    digest = ref.digest()
    known = read_attributions(rundir, digest)
    pending = [
        (edit, control) for edit, control in pairs if edit.key not in known or known[edit.key].control != control.key
    ]
    if not pending:
        return
    LOG.info("attribution: %d pairs by %s", len(pending), ref.name)
    panel = Panel(refs=(ref,))
    questions = [Question(panel=panel, task=partial(_attribute, edit, control)) for edit, control in pending]
    write_attributions(rundir, digest, known | dict(ask(questions, "attribution")))


def _attribute(edit: Sample, control: Sample, classifiers: "Sequence[Classifier]") -> tuple[str, Attribution]:
    """Return an edit's key with its map. Runs in the actor of the classifier."""
    from actors.classifier.attribution import attribute_pair

    (classifier,) = classifiers
    return edit.key, attribute_pair(edit, control, classifier)
