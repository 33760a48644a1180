"""A receipt as JUnit's XML, for CI systems: a testsuite a phase, a testcase a check.

    path.write_text(render(receipt))

    proven         passed
    regression     <failure>
    inconclusive   <error>: the check could not be carried out. A CI system shows it red, as it does a failure: missing
                   evidence is never a pass, and <skipped> would be green.
    pending        <skipped>: it goes on collecting, and the command's exit code 8 says so. A run that waits no longer turns
                   pending into inconclusive; so only one that goes on elsewhere (--detach) ends with skipped checks.

A phase whose time has not come is a testsuite with one skipped testcase. The form is Jenkins's junit-10.xsd, which GitLab,
GitHub's reporters and others read; it has no verdicts of its own, so the command's exit code stays the word that counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from toolkit.verify.report import words
from toolkit.verify.verdict import Finding, Receipt, Verdict

_ELEMENTS = {Verdict.REGRESSION: "failure", Verdict.INCONCLUSIVE: "error", Verdict.PENDING: "skipped"}


def render(receipt: Receipt, runbooks: Mapping[str, str] = {}) -> str:
    """The whole document. `runbooks`: the path of each check's runbook, by the check's name."""
    shown = words.cleaned(receipt)
    root = ET.Element("testsuites", name=f"verify-deploy {shown.release}")
    for phase, findings in words.phases(shown):
        _suite(root, shown, phase, findings, runbooks)
    for phase, at in shown.later.items():
        suite = ET.SubElement(
            root, "testsuite", name=phase, tests="1", failures="0", errors="0", skipped="1", time="0"
        )
        case = ET.SubElement(suite, "testcase", classname=f"verify-deploy.{phase}", name=phase, time="0")
        ET.SubElement(case, "skipped", message=f"not before {words.when(at)}")
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(
    root: ET.Element, receipt: Receipt, phase: str, findings: Sequence[Finding], runbooks: Mapping[str, str]
) -> None:
    counts = {name: sum(one.verdict is verdict for one in findings) for verdict, name in _ELEMENTS.items()}
    suite = ET.SubElement(
        root, "testsuite", name=phase, tests=str(len(findings)), failures=str(counts["failure"]),
        errors=str(counts["error"]), skipped=str(counts["skipped"]), timestamp=f"{receipt.looked_at:%Y-%m-%dT%H:%M:%S}",
        time=f"{sum(one.took for one in findings):.3f}",
    )  # fmt: skip
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("release", receipt.release),
        ("verdict", receipt.verdict),
        ("verification", str(receipt.verification_id)),
        ("since", f"{words.when(receipt.since)} ({receipt.since_what})"),
    ):
        ET.SubElement(properties, "property", name=name, value=value)
    for one in findings:
        case = ET.SubElement(
            suite, "testcase", classname=f"verify-deploy.{phase}", name=one.check, time=f"{one.took:.3f}"
        )  # fmt: skip
        _told(case, one, runbooks.get(one.check, ""))


def _told(case: ET.Element, finding: Finding, runbook: str) -> None:
    judgement = finding.judgement
    more = [
        judgement.said,
        *judgement.notes,
        *(f"cannot be believed: {source}" for source in judgement.blind),
        *(f"does not answer: {source}" for source in judgement.unreachable),
        *(f"job {job}" for job in judgement.jobs),
        *(f"trace {trace}" for trace in judgement.traces),
        *(f"next: {command}" for command in judgement.next),
        *([f"runbook: {runbook}"] if runbook else []),
    ]
    if finding.verdict in _ELEMENTS:
        told = ET.SubElement(case, _ELEMENTS[finding.verdict], message=judgement.said)
        if finding.verdict is not Verdict.PENDING:
            told.set("type", finding.verdict)
    else:
        told = ET.SubElement(case, "system-out")
    told.text = "\n".join(more)
