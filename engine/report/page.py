"""Write the report: report/index.html, one self-contained page, and report/summary.json."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from engine import wording
from engine.probe.attribution import Attribution
from engine.report.drawing.charts import interval_track, line_sample, mark_sample
from engine.report.pictures import contact_sheet, data_uri
from engine.report.provenance import provenance
from engine.report.results import read_digests, read_results
from engine.report.shown import Shown, choose_shown
from engine.report.summary import Summary, build_summary, summary_bytes
from engine.report.views.attribution import evidence_view, read_attributions
from engine.report.views.results import build_view
from engine.run.directory import RunDirectory
from engine.runfile.load import dump_run_file
from engine.runfile.run import RunFile

PAGE = "report/index.html"
SUMMARY = "report/summary.json"
TEMPLATES = Path(__file__).parent / "templates"
NUMBER_FILTERS = ("percent", "points", "interval", "count", "duration", "plain", "words", "q_value", "score")

# Attribution maps by arm and edit key.
Maps = Mapping[str, Mapping[str, Attribution]]


def write_report(rundir: RunDirectory, run: RunFile) -> str:
    """Write page and summary from the results so far, and return the page's name."""
    summary, shown, maps = summarise(rundir, run)
    rundir.storage.write(SUMMARY, summary_bytes(summary))
    rundir.storage.write(PAGE, render_page(summary, run, shown, maps).encode())
    return rundir.storage.name(PAGE)


def summarise(rundir: RunDirectory, run: RunFile) -> tuple[Summary, Shown, Maps]:
    """Return the summary, the pictures of the page, and their attribution maps."""
    results = read_results(rundir, run)
    digests = read_digests(results)
    shown = choose_shown(rundir, run, digests)
    maps = {arm: read_attributions(rundir, digest) for arm, digest in digests.items()}
    return build_summary(results, shown, maps), shown, maps


def result_picture(rundir: RunDirectory, run: RunFile, num_rows: int) -> bytes:
    """Return a PNG of the rows in which edits flip the classifier and the reinforced one is right again."""
    few = run.model_copy(update={"report": run.report.model_copy(update={"num_rows": num_rows})})
    return contact_sheet(choose_shown(rundir, few, read_digests(read_results(rundir, run))).rows)


def render_page(summary: Summary, run: RunFile, shown: Shown, maps: Maps) -> str:
    """Return the page as HTML. Texts of users are escaped; its policy allows its own script alone."""
    pictures = shown.pictures
    environment = template_environment()
    environment.filters |= {name: getattr(wording, name) for name in NUMBER_FILTERS} | {"code": code}
    environment.globals |= {"interval_track": interval_track, "mark_sample": mark_sample, "line_sample": line_sample}
    return environment.get_template("page.html.jinja").render(
        summary=summary,
        view=build_view(summary, run, dump_run_file(run)),
        images={key: data_uri(sample.image) for key, sample in pictures.items() if sample.image},
        evidence=evidence_view(summary, pictures, maps),
        provenance={key: provenance(sample, run, shown.places.get(key)) for key, sample in pictures.items()},
        **script_of("page.js"),
    )


def template_environment() -> Environment:
    """Return the template environment: texts are escaped, an undefined name is an error."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def script_of(name: str) -> dict[str, str]:
    """Return a script's text and the SHA-256 by which the page's content security policy allows it."""
    script = (TEMPLATES / name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"script": Markup(script), "script_hash": digest}  # nosec B704 # our own file


def code(text: str) -> Markup:
    """Return text as HTML, with parts between backticks as code."""
    parts = (
        Markup("<code>{}</code>").format(part) if place % 2 else escape(part)
        for place, part in enumerate(text.split("`"))
    )
    return Markup("").join(parts)
