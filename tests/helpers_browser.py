"""A page in a real browser, where there is one."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --allow-file-access-from-files"
POLICY = re.compile("<meta http-equiv=[^>]*>")
"""By which a page forbids scripts, ours too."""
MEASURE = """
<script>
onload = () => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const root = document.documentElement, found = [];
  for (const one of document.querySelectorAll("body, body *")) {
    const box = one.getBoundingClientRect(), name = `${one.tagName} ${(one.textContent || "").trim().slice(0, 30)}`;
    const clips = getComputedStyle(one).overflowX != "visible" && one.scrollWidth > one.clientWidth + 1;
    if (clips || (box.width && box.right > root.clientWidth + 1)) found.push(name);
  }
  parent.postMessage(JSON.stringify(found), "*");
}
</script>
"""
FRAME = """<!doctype html><pre></pre>
<script>onmessage = told => document.querySelector("pre").textContent = told.data</script>
<iframe src="page.html" style="border: 0; width: {width}px; height: 900px"></iframe>
"""


def off_screen(page: str, width: int, folder: Path) -> list[str]:
    """Elements of a page, everything unfolded, that reach beyond a screen of so many pixels or must be scrolled sideways.

    The test is skipped where there is no browser.
    """
    (folder / "page.html").write_text(POLICY.sub("", page).replace("</body>", f"{MEASURE}</body>"))
    (folder / "frame.html").write_text(FRAME.format(width=width))  # a window has a least width, a frame has none
    seen = loaded(folder / "frame.html", folder)
    told = re.search(r"<pre>(.+?)</pre>", seen, re.DOTALL)
    assert told, seen
    found: list[str] = json.loads(html.unescape(told[1]))
    return found


def loaded(page: Path, folder: Path) -> str:
    """What becomes of a page once all of its scripts that may run have run: its elements, as text.

    The test is skipped where there is no browser.
    """
    if BROWSER is None:
        pytest.skip("there is no chromium")
    words = [*OPTIONS.split(), f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    done = subprocess.run([BROWSER, *words, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout
