"""`python -m docs.tools.page_pictures BUNDLE`: renew the pictures of the server's page, wide and light, narrow and dark.

It serves the bundle on this machine and needs Chromium at /usr/bin/chromium.
"""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from docs.tools.staging import ROOT

TEXTS = ("a masterpiece of boredom", "The plot is thin, but the actors are wonderful.")
PICTURES = {"page.png": (900, "light"), "page-narrow.png": (390, "dark")}
FLAGS = ["--no-sandbox", "--disable-gpu"]


def main(bundle: str) -> None:
    """Write both pictures beside the page."""
    command = [sys.executable, "-m", "distill", "serve", bundle, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        try:
            address = next(word for line in server.stderr or () for word in line.split() if word.startswith("http://"))
            browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            for name, (width, scheme) in PICTURES.items():
                page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
                _answered(page, address)
                _keep(page.screenshot(full_page=True), ROOT / "serve" / "page" / name)
        finally:
            server.terminate()


def _answered(page: Any, address: str) -> None:
    """Open the page, classify the texts, and mark the words that mattered."""
    page.goto(address)
    page.locator("#ask:enabled").wait_for()
    page.get_by_label("Texts, one per line").fill("\n".join(TEXTS))
    page.get_by_role("button", name="Classify").click()
    for place in range(len(TEXTS)):
        page.get_by_role("button", name="Which words mattered?").nth(place).click()
        page.locator("article").nth(place).locator(".word").first.wait_for()


def _keep(picture: bytes, path: Path) -> None:
    """Write a picture with 256 colours: nobody sees the difference, and a reader of the page loads a third."""
    Image.open(BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
