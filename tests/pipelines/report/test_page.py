"""The report's page is self-contained, and its images are lossless."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import imageio.v3 as imageio
import numpy as np

from tokenreel.pipelines.report.page import Page


def inlined_pictures(text: str) -> list[bytes]:
    return [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]


def test_pictures_in_the_page_are_lossless(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    still, moving = rng.integers(0, 256, (7, 11, 3), np.uint8), rng.integers(0, 256, (5, 13, 17, 3), np.uint8)
    page = Page("A title", "a lead")
    page.still(still, "still")
    page.moving(moving, 10.0, "moving")
    page.write(tmp_path / "report.html")
    first, second = inlined_pictures((tmp_path / "report.html").read_text())
    assert np.array_equal(imageio.imread(first), still)
    assert np.array_equal(imageio.imread(second, index=None), moving)


def test_page_fetches_nothing_and_runs_nothing(tmp_path: Path) -> None:
    page = Page("<script>alert(1)</script>", "lead & more")
    page.table(("name", "value"), [("<b>", "2")])
    page.write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "<b>" not in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
