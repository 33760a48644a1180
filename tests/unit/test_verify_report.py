"""verify-deploy's reports: nothing is lost, nothing leaks, every text stays a text, missing evidence is never a pass."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests import receipts
from tests.receipts import HOSTILE, RUNBOOKS, START, but, finding
from toolkit.verify.report import html, junit, markdown, plots, words
from toolkit.verify.report.svg import Scale, tag, time_ticks
from toolkit.verify.verdict import Event, Moment, Plots, Receipt, Rescue, Verdict

FORMATS = {"html": html.render, "junit": junit.render, "markdown": markdown.render}


def parsed(text: str) -> ET.Element:
    """Our own XML, read."""
    return ET.fromstring(text)  # noqa: S314  this test wrote it


def hostile() -> Receipt:
    """Every text of a receipt says what a job's error may say."""
    said: dict[str, Any] = {
        "notes": (HOSTILE,), "blind": (HOSTILE,), "unreachable": (HOSTILE,), "jobs": (HOSTILE,), "traces": (HOSTILE,),
        "next": (HOSTILE,),
    }  # fmt: skip
    return but(
        receipts.regression(),
        release=HOSTILE,
        previous=HOSTILE,
        since_what=HOSTILE,
        who=HOSTILE,
        findings=(
            finding(HOSTILE, HOSTILE, Verdict.REGRESSION, HOSTILE, **said),
            finding(
                HOSTILE, "b", Verdict.INCONCLUSIVE, HOSTILE, evidence={"have": 1, "need": 2, "unit": HOSTILE}
            ),
        ),
        later={HOSTILE: START},
        events=(Event(kind=HOSTILE, at=START, what=HOSTILE, who=HOSTILE),),
        sources={HOSTILE: HOSTILE},
        rescues=(Rescue(name=HOSTILE, command=HOSTILE, seconds=1.0, measured=HOSTILE),),
    )


@pytest.mark.parametrize(
    ("broken", "said"), [(1, "a: x"), (2, "a: x; and 1 more check"), (4, "a: x; and 3 more checks")]
)
def test_the_reason_counts_the_other_checks_as_checks(broken: int, said: str) -> None:
    """`still at work: …; and 3 more` would read like processes."""
    found = tuple(finding(name, "immediate", Verdict.REGRESSION, "x") for name in "abcd"[:broken])
    assert words.why(but(receipts.regression(), findings=found)) == said


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("verdict", Verdict)
def test_every_format_says_the_verdict_the_release_and_what_each_check_found(
    name: str, verdict: Verdict
) -> None:
    one = receipts.every()[verdict]
    text = FORMATS[name](one, RUNBOOKS)
    for word in (verdict, one.release, *(found.check for found in one.findings)):
        assert word in text
    for found in one.findings:
        assert found.judgement.said[:20] in text.replace("&lt;", "<")


@pytest.mark.parametrize("name", FORMATS)
def test_no_format_shows_a_password_or_a_control_character(name: str) -> None:
    text = FORMATS[name](hostile(), {})
    assert "hunter2" not in text
    assert "shop:***@db" in text or "shop:\\*\\*\\*@db" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text)
    text.encode()


class Tags(HTMLParser):
    """The tags of a page, and what its attributes refer to."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)
        self.outside += [
            f"{tag} {key}={value}" for key, value in attrs if key in {"src", "href", "xlink:href", "action"}
        ]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("one", [hostile(), *receipts.every().values()], ids=lambda one: one.verdict)
def test_the_page_needs_no_script_and_nothing_from_outside_whatever_a_text_says(one: Receipt) -> None:
    page = html.render(one, RUNBOOKS)
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert not tags.seen & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert tags.outside == []
    assert "url(" not in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize("one", [hostile(), *receipts.every().values()], ids=lambda one: one.verdict)
def test_every_plot_has_a_title_and_a_description_for_who_cannot_see_it(one: Receipt) -> None:
    shown = words.cleaned(one)
    for plot in (plots.outcomes(shown), plots.durations(shown)):
        root = parsed(plot)
        ids = {part.get("id"): part.text for part in root.iter() if part.get("id")}
        assert root.get("role") == "img"
        assert all(ids[name] for name in root.get("aria-labelledby", "").split())


# JUnit


@pytest.mark.parametrize(
    ("verdict", "element"),
    [
        (Verdict.REGRESSION, "failure"),
        (Verdict.INCONCLUSIVE, "error"),
        (Verdict.PENDING, "skipped"),
        (Verdict.PROVEN, None),
    ],
)
def test_junit_is_green_only_for_what_is_proven_or_goes_on(verdict: Verdict, element: str | None) -> None:
    root = parsed(junit.render(receipts.receipt(verdict, (finding("one", "immediate", verdict, "said"),))))
    (suite,) = root
    (case,) = suite.findall("testcase")
    assert [part.tag for part in case if part.tag != "system-out"] == ([element] if element else [])
    counted = {name: int(suite.get(name, "")) for name in ("tests", "failures", "errors", "skipped")}
    assert counted == {
        "tests": 1, "failures": element == "failure", "errors": element == "error", "skipped": element == "skipped",
    }  # fmt: skip


def test_junit_has_a_suite_a_phase_and_a_skipped_one_for_each_that_comes_later() -> None:
    root = parsed(junit.render(receipts.proven(), RUNBOOKS))
    assert [suite.get("name") for suite in root] == ["immediate", "short-term", "long-term"]
    assert [suite.find(".//skipped") is not None for suite in root] == [False, True, True]


def test_junit_is_well_formed_with_any_text() -> None:
    root = parsed(junit.render(hostile()))
    failure = root.find(".//failure")
    assert failure is not None
    assert "<script>alert('x')</script>" in (failure.text or "")


# Markdown


def test_markdown_begins_with_the_verdict_and_ranks_the_ways_back_before_the_table() -> None:
    text = markdown.render(receipts.regression(), RUNBOOKS)
    lines = text.splitlines()
    assert lines[0] == "## ✗ regression: release 4811ec9"
    order = [
        text.index(part)
        for part in ("toolkit toggle off", "--release 3f1c02b", "toolkit jobs show", "| phase |")
    ]
    assert order == sorted(order)
    assert "runbooks/ForeignKeyErrors.md" in text


def test_a_text_starts_no_table_code_link_or_mention_in_markdown() -> None:
    lines = markdown.render(hostile()).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    outside = [
        line for line in lines if not line.startswith("</td>")
    ]  # commands are shown as they are, fenced
    assert not any(re.search(r"(?<!\\)[<\[]|(?<!\w)@channel", line) for line in outside)


def test_a_command_cannot_end_its_fence() -> None:
    one = but(
        receipts.regression(), rescues=(Rescue(name="x", command="echo ```", seconds=None, measured=""),)
    )
    assert "````sh\necho ```\n````" in markdown.render(one)


# Plots


def test_slices_that_are_too_narrow_to_be_seen_are_put_together_and_none_is_lost() -> None:
    given = receipts.moments(1440, errors_at=frozenset({7, 900}))
    together, every = plots.merged(given, 60)
    assert len(together) <= (plots.RIGHT - plots.LEFT) / plots.BAR
    assert every % 60 == 0
    for name in (*plots.OUTCOMES, "fk_errors"):
        assert (
            sum(getattr(one, name) for one in together)
            == sum(getattr(one, name) for one in given)
            > (name == "failed")
        )


def test_foreign_key_errors_and_events_are_marked_and_no_flag_hides_another() -> None:
    root = parsed(plots.outcomes(receipts.regression()))
    assert len(drawn(root, "fk")) == 2
    flags = [
        (float(one.get("cx", "")), float(one.get("cy", "")), float(one.get("r", "")))
        for one in drawn(root, "flag")
    ]
    assert len(flags) == 3
    for number, (x, y, r) in enumerate(flags):
        assert all((x - x2) ** 2 + (y - y2) ** 2 >= (r + r2) ** 2 for x2, y2, r2 in flags[:number])


def test_a_mark_above_the_highest_bar_stays_inside_the_picture() -> None:
    moment = Moment(START, 0, 0, 10, 0, 10)
    root = parsed(plots.outcomes(receipts.receipt(Verdict.REGRESSION, (), plots=Plots(moments=(moment,)))))
    (mark,) = drawn(root, "fk")
    top = float(mark.get("d", "").split(",")[1].split()[0])
    assert top >= 0


def test_an_empty_plot_says_that_it_is_empty() -> None:
    for plot in (plots.outcomes(receipts.inconclusive()), plots.durations(receipts.inconclusive())):
        (said,) = drawn(parsed(plot), "nothing")
        assert "no run" in (said.text or "")
    assert not drawn(parsed(plots.durations(receipts.proven())), "nothing")


def test_the_p95_is_marked_on_the_curve_where_95_in_a_hundred_are_done() -> None:
    one = receipts.receipt(Verdict.PENDING, (), plots=Plots(durations=tuple(float(n) for n in range(1, 101))))
    root = parsed(plots.durations(one))
    (dot,) = drawn(root, "dot now")
    (curve,) = drawn(root, "curve now")
    assert f"{float(dot.get('cx', '')):.1f},{float(dot.get('cy', '')):.1f}" in curve.get("points", "").split()
    assert words.quantile([float(n) for n in range(1, 101)], 0.95) == 95
    assert words.quantile([3.0], 0.95) == 3


def drawn(root: ET.Element, class_: str) -> list[ET.Element]:
    """The elements of that class."""
    return [part for part in root.iter() if part.get("class") == class_]


@pytest.mark.parametrize(
    "scale",
    [
        Scale(0.0, 7, 0, 900),
        Scale(0.1, 1.0, 0, 900, log=True),
        Scale(0.7, 4.5, 0, 900, log=True),
        Scale(0.0004, 731, 0, 900, log=True),
        Scale(1.21, 1.39, 0, 900, log=True),
    ],
)
def test_ticks_are_some_rise_and_lie_apart_within_the_scale(scale: Scale) -> None:
    ticks = scale.ticks(9)
    assert len(ticks) > 1
    assert scale.low <= ticks[0]
    assert ticks[-1] <= scale.high
    assert all(scale(two) - scale(one) > 55 for one, two in pairwise(ticks))


@pytest.mark.parametrize("seconds", [1, 59, 3600, 86_400 * 40])
def test_time_ticks_are_few_and_within_the_window(seconds: float) -> None:
    last = START + timedelta(seconds=seconds)
    assert all(START <= tick <= last for tick in time_ticks(START, last))
    assert len(time_ticks(START, last)) <= 9


def test_an_element_escapes_what_it_is_given() -> None:
    assert str(tag("text", "<a>", class_='"x"')) == '<text class="&#34;x&#34;">&lt;a&gt;</text>'
