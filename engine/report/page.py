"""Write the report: report/index.html, one page that needs nothing else, and report/summary.json beside it."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.load import dump_run_file
from engine.report import words
from engine.report.charts import interval_track, line_sample, mark_sample
from engine.report.pictures import contact_sheet, data_uri
from engine.report.results import picture_shards, read_digests, read_guesses, read_results, read_samples
from engine.report.rows import choose_examples, choose_rows, make_rows
from engine.report.summary import Summary, build_summary, summary_bytes
from engine.report.view import build_view
from engine.rundir import RunDirectory
from engine.runfile import RunFile
from engine.sample import Json, Sample

PAGE = "report/index.html"
SUMMARY = "report/summary.json"
NUM_EXAMPLES = 14


def write_report(rundir: RunDirectory, run: RunFile) -> str:
    """Write the page and the summary from what the run directory holds so far, and return the page's name."""
    results = read_results(rundir, run)
    shards = picture_shards(results.markers)
    samples = read_samples(rundir, shards)
    guesses = read_guesses(rundir, read_digests(results), shards)
    shown = [
        sample for sample in samples if sample.verdict is None or sample.verdict.accepted or sample.role == "source"
    ]
    rows = choose_rows(make_rows(shown, guesses), run.report.num_rows)
    edits = [sample for sample in samples if sample.role == "counterfactual"]
    accepted = choose_examples(edits, is_accepted=True, count=NUM_EXAMPLES)
    rejected = choose_examples(edits, is_accepted=False, count=NUM_EXAMPLES)
    summary = build_summary(results, rows, accepted, rejected)
    pictures = [*(picture.sample for row in rows for picture in row.pictures), *accepted, *rejected]
    rundir.storage.write(SUMMARY, summary_bytes(summary))
    rundir.storage.write(PAGE, render_page(summary, run, pictures).encode())
    return rundir.storage.name(PAGE)


def result_picture(rundir: RunDirectory, run: RunFile, num_rows: int = 6) -> bytes:
    """Return a PNG of the rows in which edits flip the classifier and the reinforced one is right again."""
    results = read_results(rundir, run)
    shards = picture_shards(results.markers)
    guesses = read_guesses(rundir, read_digests(results), shards)
    samples = [sample for sample in read_samples(rundir, shards) if sample.verdict is None or sample.verdict.accepted]
    return contact_sheet(choose_rows(make_rows(samples, guesses), num_rows))


def render_page(summary: Summary, run: RunFile, pictures: Iterable[Sample]) -> str:
    """Return the page as HTML. Everything that comes from users is escaped."""
    samples = {sample.key: sample for sample in pictures}
    environment = template_environment()
    environment.filters |= {
        name: getattr(words, name)
        for name in ("percent", "points", "interval", "count", "duration", "plain", "words", "q_value", "score", "code")
    }
    environment.globals |= {"interval_track": interval_track, "mark_sample": mark_sample, "line_sample": line_sample}
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        view=build_view(summary, run, dump_run_file(run)),
        images={key: data_uri(sample.image) for key, sample in samples.items() if sample.image},
        provenance={key: provenance(sample) for key, sample in samples.items()},
    )


def template_environment() -> Environment:
    """Return the environment of the templates beside this module: what a user wrote is escaped, a gap is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def provenance(sample: Sample) -> list[tuple[str, str]]:
    """Return where a picture comes from, as names and values."""
    facts = {"source": sample.source_key, "role": sample.role, "split": sample.split, "class": sample.class_name}
    facts |= {"caption": sample.caption, **sample.attributes}
    if sample.edit:
        facts |= {
            "edit": f"{sample.edit.kind}: {sample.edit.before} → {sample.edit.after}",
            "instruction": sample.edit.instruction,
            "edited caption": sample.edit.caption,
            "severity": f"{sample.edit.severity:g}",
        }
    facts |= {f"score {name}": words.score(value) for name, value in sample.scores.items()}
    if sample.verdict:
        facts["verdict"] = "accepted" if sample.verdict.accepted else "rejected: " + ", ".join(sample.verdict.reasons)
    facts |= dict(_flat("", dict(sample.provenance)))
    return [(words.words(name), value) for name, value in facts.items() if value]


def _flat(name: str, value: Json) -> Iterator[tuple[str, str]]:
    """Yield nested JSON as names such as "editor model digest" with their values as text."""
    if isinstance(value, dict):
        for part, item in value.items():
            yield from _flat(f"{name} {part}".strip(), item)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)
