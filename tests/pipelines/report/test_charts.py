"""The chart of code frequencies shows the counts and the 80 % mark, and can be a PNG."""

from __future__ import annotations

import imageio.v3 as imageio
import numpy as np

from tokenreel.pipelines.report.charts import _frequencies, sorted_frequencies_png

COUNTS = np.array([[1, 5, 0, 14], [6, 6, 6, 2]])  # 80 % of 20 is 16: two of the first make 19, three of the second 18


def test_frequencies_are_sorted_and_80_percent_is_marked() -> None:
    axes = _frequencies(COUNTS, "codes").axes[0]
    curves, marks = axes.lines[0::2], axes.lines[1::2]
    assert [(20 * np.asarray(curve.get_ydata())).round().tolist() for curve in curves] == [[14, 5, 1, 0], [6, 6, 6, 2]]
    assert [mark.get_xdata() for mark in marks] == [[1.5, 1.5], [2.5, 2.5]]  # after the second and the third code
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words == ["codebook 0: 2 of 4 codes hold 80 %", "codebook 1: 3 of 4 codes hold 80 %"]


def test_the_png_is_an_image_and_deterministic() -> None:
    first = sorted_frequencies_png(COUNTS, "codes")
    assert first == sorted_frequencies_png(COUNTS, "codes")
    assert len(np.unique(imageio.imread(first).reshape(-1, 4), axis=0)) > 10
