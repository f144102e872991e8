"""Pictures of a run's report, as in docs/: on a laptop, on a phone and in print.

    python tests/browser/report_pictures.py .runs/NAME/reports/report.html [docs]

Needs Chromium, and pdftoppm (poppler) for the printed pages.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

SCREENS = {"laptop": (1280, 1560), "phone": (390, 1500)}
PAGES = 3  # of the printed report, beside each other


def main() -> None:
    """Parse the arguments and write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs"))
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if chromium is None or shutil.which("pdftoppm") is None:
        raise SystemExit("error: needs Chromium (on PATH or in $CHROMIUM) and pdftoppm")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        pictures = take(browser, options.report.resolve().as_uri(), Path(folder))
        browser.close()
    for name, picture in pictures.items():
        # A palette makes the files small; the default method would lose the colours of thin lines.
        small = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        small.save(options.folder / f"report-{name}.png", optimize=True)


def take(browser: Browser, address: str, folder: Path) -> dict[str, Image.Image]:
    """The pictures by name; `folder` is for files on the way."""
    pictures = {}
    for name, (width, height) in SCREENS.items():
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        page.goto(address)
        page.screenshot(path=folder / f"{name}.png")
        pictures[name] = Image.open(folder / f"{name}.png").convert("RGB")
    page = browser.new_page()
    page.goto(address)
    page.pdf(path=folder / "print.pdf", prefer_css_page_size=True)
    command = ["pdftoppm", "-r", "75", "-l", str(PAGES), "-png", folder / "print.pdf", folder / "page"]
    subprocess.run(command, check=True)
    pages = [Image.open(path).convert("RGB") for path in sorted(folder.glob("page-*.png"))]
    width, height = pages[0].size
    whole = Image.new("RGB", ((width + 12) * len(pages) - 12, height), "#8a939c")
    for place, picture in enumerate(pages):
        whole.paste(picture, (place * (width + 12), 0))
    return pictures | {"print": whole}


if __name__ == "__main__":
    main()
