"""verify-deploy's page in a real browser: nothing overlaps or is cut off, no errors, and the plots show what happened."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests import receipts
from tests.browser import Browser, Looked, browser
from tests.receipts import HOSTILE, RUNBOOKS, but, finding
from toolkit.verify.report import html
from toolkit.verify.verdict import Event, Receipt, Verdict

Box = list[float]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return browser(tmp_path_factory.mktemp("browser"))


def hard() -> Receipt:
    """Long words, markup and many events close together."""
    word = "x" * 400
    return but(
        receipts.regression(),
        release=word,
        findings=(
            *receipts.regression().findings,
            finding(word, "immediate", Verdict.REGRESSION, word, notes=(HOSTILE, word)),
        ),
        events=tuple(Event(kind="flip", at=receipts.START, what=word, who=word) for _ in range(12)),
        sources={word: word},
    )


PAGES = {**receipts.every(), "hard": hard()}


def overlaps(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pairs of lines of text that share more than a hair's breadth."""

    def shared(a: Box, b: Box) -> bool:
        return min(a[2], b[2]) - max(a[0], b[0]) > 2 and min(a[3], b[3]) - max(a[1], b[1]) > 4

    return [
        (one["text"], two["text"]) for one, two in combinations(lines, 2) if shared(one["box"], two["box"])
    ]


def outside(seen: dict[str, Any]) -> list[str]:
    """Words of a plot that leave their plot."""
    return [
        one["text"]
        for one in seen["lines"]
        if one["svg"] in seen["plots"] and not inside(one["box"], seen["plots"][one["svg"]])
    ]  # fmt: skip


def inside(small: Box, big: Box) -> bool:
    return (
        small[0] >= big[0] - 1
        and small[1] >= big[1] - 1
        and small[2] <= big[2] + 1
        and small[3] <= big[3] + 1
    )


@pytest.mark.parametrize("width", [1200, 520])
@pytest.mark.parametrize("name", PAGES)
def test_no_text_overlaps_another_or_is_cut_off_and_the_console_is_silent(
    chromium: Browser, name: str, width: int
) -> None:
    looked = chromium.look(html.render(PAGES[name], RUNBOOKS), width=width)
    seen = looked.measured
    assert len(seen["lines"]) > 30
    assert overlaps(seen["lines"]) == []
    assert outside(seen) == []
    assert seen["cut"] == []
    assert seen["wide"] <= seen["window"]
    assert looked.console == []


def test_a_page_with_a_fault_is_seen(chromium: Browser) -> None:
    fault = """<p style="margin-top:-20px">one over the other</p><p style="width:20px;white-space:nowrap">too long for it</p>
        <script>document.title = 1</script></main>"""
    looked = chromium.look(html.render(receipts.proven(), RUNBOOKS).replace("</main>", fault))
    assert overlaps(looked.measured["lines"])
    assert looked.measured["cut"]
    assert looked.console


# Ink: the colours of the page's style sheet, light and dark

COLOURS = {
    "light": {
        "processed": "#00805f",
        "skipped": "#e69f00",
        "failed": "#d55e00",
        "lost": "#b8588f",
        "now": "#0072b2",
    },
    "dark": {
        "processed": "#14a67e",
        "skipped": "#e6a817",
        "failed": "#f07a2b",
        "lost": "#d98fba",
        "now": "#56b4e9",
    },
}


def ink(looked: Looked, plot: str, colour: str) -> int:
    """Pixels of that colour in the plot."""
    left, top, right, bottom = (int(one) for one in looked.measured["plots"][plot])
    wanted = tuple(bytes.fromhex(colour.removeprefix("#")))
    with Image.open(looked.picture) as whole:
        counted = whole.convert("RGB").crop((left, top, right, bottom)).getcolors(2**24) or []
    return sum(count for count, pixel in counted if pixel == wanted)


@pytest.mark.parametrize("scheme", COLOURS)
def test_the_plots_have_ink_for_each_outcome_and_both_curves_in_light_and_dark(
    chromium: Browser, scheme: str
) -> None:
    looked = chromium.look(html.render(receipts.regression(), RUNBOOKS), dark=scheme == "dark")
    found = {
        name: ink(looked, "outcomes", colour) for name, colour in COLOURS[scheme].items() if name != "now"
    }
    counts = {"processed": 210, "skipped": 8, "failed": 4, "lost": 1}
    each = found["processed"] / counts["processed"]
    assert each > 100
    for name, count in counts.items():
        assert found[name] == pytest.approx(each * count, rel=0.15), f"{name}: {found}"
    assert ink(looked, "durations", COLOURS[scheme]["now"]) > 300
    page = {"light": (255, 255, 255), "dark": (0x15, 0x18, 0x1C)}[scheme]
    with Image.open(looked.picture) as whole:
        assert whole.convert("RGB").getpixel((2, 2)) == page


def test_an_empty_plot_has_no_ink(chromium: Browser) -> None:
    looked = chromium.look(html.render(receipts.inconclusive(), RUNBOOKS))
    assert not any(ink(looked, "outcomes", colour) for colour in COLOURS["light"].values())
    assert ink(looked, "durations", COLOURS["light"]["now"]) == 0
    said = [one["text"] for one in looked.measured["lines"] if one["svg"]]
    assert any(text.startswith("no run of this release") for text in said)


def test_the_page_can_be_printed(chromium: Browser, tmp_path: Path) -> None:
    page, paper = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(html.render(receipts.regression(), RUNBOOKS))
    chromium.run(page, f"--print-to-pdf={paper}", "--no-pdf-header-footer")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert (
        1 <= content.count(b"/Type /Page\n") <= 3
    )  # a wide plot, or a column a letter wide, would take more
