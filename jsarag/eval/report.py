"""The report of a run: one HTML file that needs nothing but a browser.

Reads the run folder and nothing else, so it can be made again at any time, of an unfinished run
too. Everything that comes from data, settings or logs is escaped; the page's own policy forbids
scripts and anything from elsewhere. The sections are in ``report_scores``, ``report_sections`` and
``report_examples``, what a page looks like is ``report_template.html``'s.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from jsarag.eval import report_examples, report_scores, report_sections
from jsarag.eval.run_record import RunRecord, read_run
from jsarag.io.atomic import write_text
from jsarag.io.run_dir import RunDir

_TEMPLATE = "report_template.html"


def write_report(run_dir: RunDir | Path | str, *, samples: int = 2000) -> Path:
    """Write ``report.html`` into a run folder, finished or not; an earlier one is replaced.

    Args:
        run_dir: what ``jsarag train`` wrote.
        samples: bootstrap resamples of the differences shown.

    Returns:
        The file's path.

    Raises:
        DataError: there is no such folder.
    """
    run = run_dir if isinstance(run_dir, RunDir) else RunDir(run_dir)
    write_text(run.report_path, render_report(read_run(run, samples=samples)))
    return run.report_path


def render_report(record: RunRecord) -> str:
    """The whole page."""
    sections = [
        report_sections.header(record),
        report_scores.scores(record),
        report_sections.evidence(record),
        report_sections.curves(record),
        report_sections.time_per_station(record),
        report_sections.warnings(record),
        report_examples.examples(record),
        report_sections.facts(record),
        report_sections.configuration(record),
        report_sections.footer(record),
    ]
    template = resources.files("jsarag.eval").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(f"{record.name} · jsarag"), body="\n".join(filter(None, sections))
    )
