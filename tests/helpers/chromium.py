"""A page as headless Chromium shows it."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from helpers.places import skip_or_fail

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")

MEASURE = """
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, width = page.documentElement.clientWidth;
    const beyond = [...page.body.querySelectorAll("*")].filter(element =>
      !element.parentElement.closest(".scroll") && element.getBoundingClientRect().right > width + 0.5);
    return {width, scroll_width: page.documentElement.scrollWidth, beyond: beyond.map(element => element.outerHTML),
            num_cells: page.querySelectorAll("td").length, font: page.defaultView.getComputedStyle(page.body).fontSize};
  });
  document.querySelector("pre").textContent = JSON.stringify(found);
});
"""


def opened(page: str, folder: Path, *, widths: tuple[int, ...]) -> tuple[list[dict[str, Any]], list[str]]:
    """Open a page in frames of several widths (pixels): for each its measures, and what stood on the console.

    Measures: width, scroll_width, num_cells, font, and beyond: the elements that stick out of the page to the right,
    those apart that scroll in a box of their own. A window of its own cannot be narrower than 500 pixels.
    """
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        skip_or_fail("chromium is not installed")
    frames = "".join(f'<iframe srcdoc="{html.escape(page)}" width="{width}" height="800"></iframe>' for width in widths)
    around = folder / "frames.html"
    around.write_text(f"<!DOCTYPE html><meta charset=utf-8><style>iframe {{ border: 0 }}</style>{frames}<pre></pre>"
                      f"<script>{MEASURE}</script>", encoding="utf-8")  # fmt: skip
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    words += ["--window-size=1400,900", f"--user-data-dir={folder / 'profile'}", around.as_uri()]
    shown = subprocess.run([str(program), *words], capture_output=True, text=True, check=True, timeout=240)
    written = re.search(r"<pre>(.*)</pre>", shown.stdout, re.DOTALL)
    assert written, "the script has not run"
    console = [line for line in shown.stderr.splitlines() if ":CONSOLE:" in line]
    return json.loads(html.unescape(written[1])), console
