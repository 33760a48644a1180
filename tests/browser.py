"""A real browser without a window: a page's picture, its document after scripts have run, and what it said on its console."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).parent.parent
_QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb", "--enable-logging=stderr",
)  # fmt: skip
# Every line of text that is shown, with its box; whatever is wider than the box it is in; the boxes of what `wanted` names.
_MEASURE = """
addEventListener("load", () => {
  const box = (r) => [r.left, r.top, r.right, r.bottom].map((n) => Math.round(n * 10) / 10);
  const lines = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const inside = node.parentElement.closest("script, style, title, desc");
    if (inside || !node.data.trim()) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const svg = node.parentElement.closest("svg");
    const all = svg ? [node.parentElement.getBoundingClientRect()] : range.getClientRects();
    for (const one of all) lines.push({text: node.data.trim().slice(0, 60), box: box(one), svg: svg ? svg.id : ""});
  }
  const cut = [...document.body.querySelectorAll("*:not(svg, svg *)")]
    .filter((one) => one.scrollWidth > one.clientWidth + 1 && one.clientWidth && getComputedStyle(one).overflowX !== "auto")
    .map((one) => one.tagName + " " + one.textContent.trim().slice(0, 60));
  const drawn = [...document.querySelectorAll("svg[id]")];
  const plots = Object.fromEntries(drawn.map((one) => [one.id, box(one.getBoundingClientRect())]));
  const seen = {lines, cut, plots, wide: document.documentElement.scrollWidth, window: innerWidth};
  document.documentElement.dataset.measured = btoa(unescape(encodeURIComponent(JSON.stringify(seen))));
});
"""


@dataclass(frozen=True)
class Looked:
    """What a look gave: `measured` (see _MEASURE), the console's lines, and the picture."""

    measured: dict[str, Any]
    console: list[str]
    picture: Path


@dataclass(frozen=True)
class Browser:
    """The program, and a folder for its own files."""

    program: str
    folder: Path

    def look(self, page: str, *, width: int = 1200, height: int = 2600, dark: bool = False) -> Looked:
        """Open the page, with one script more in it that measures; any other is still refused, and the console tells of it."""
        written, picture = (
            self.folder / "page.html",
            self.folder / f"{width}-{'dark' if dark else 'light'}.png",
        )
        script = base64.b64encode(hashlib.sha256(_MEASURE.encode()).digest()).decode()
        allowed = page.replace("default-src 'none'", f"default-src 'none'; script-src 'sha256-{script}'")
        written.write_text(
            allowed.replace("</body>", f"<script>{_MEASURE}</script></body>"), encoding="utf-8"
        )
        told = self.run(
            written, f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--screenshot={picture}", "--dump-dom",
        )  # fmt: skip
        console = [line for line in told.stderr.splitlines() if ":CONSOLE" in line]
        found = re.search(r'data-measured="([^"]*)"', told.stdout)
        assert found, told.stdout[:500]
        return Looked(json.loads(base64.b64decode(found[1])), console, picture)

    def run(self, page: Path, *how: str) -> subprocess.CompletedProcess[str]:
        """Open a file with these options more."""
        return subprocess.run(
            [self.program, *_QUIET, f"--user-data-dir={self.folder / 'profile'}", *how, page.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip


def browser(folder: Path) -> Browser:
    """The browser of scripts/browser; skips the test where there is none, and fails it in CI."""
    told = subprocess.run([_ROOT / "scripts" / "browser"], capture_output=True, text=True, check=False)
    if told.returncode == 3 and "CI" not in os.environ:
        pytest.skip(told.stderr.strip())
    assert told.returncode == 0, told.stderr
    return Browser(told.stdout.strip(), folder)
