"""Code maps and change maps show what LVT's appendix B shows: which code stands where, and where it changes."""

from __future__ import annotations

import numpy as np

from tokenreel.pipelines.report.pictures import CHANGED, SAME, change_maps, code_maps, film_strip, indexed_colours


def test_change_map_is_yellow_exactly_where_the_code_changed() -> None:
    codes = np.random.default_rng(0).integers(0, 3, (5, 3, 7, 2))
    maps = change_maps(codes, size=9)  # each code becomes a square of 3 pixels
    for q in range(2):
        for t in range(5):
            for h in range(3):
                for w in range(7):
                    changed = t > 0 and codes[t, h, w, q] != codes[t - 1, h, w, q]
                    tile = maps[q, t, 3 * h : 3 * h + 3, 3 * w : 3 * w + 3]
                    assert (tile == (CHANGED if changed else SAME)).all()


def test_a_code_has_one_colour_and_different_codes_differ() -> None:
    colours = indexed_colours(np.arange(1024))
    assert len(np.unique(colours, axis=0)) == 1024
    maps = code_maps(np.array([[[[5], [5]], [[9], [5]]]]), size=2)
    assert (maps[0, 0, 0, 0] == maps[0, 0, 1, 1]).all()
    assert (maps[0, 0, 0, 0] != maps[0, 0, 1, 0]).any()


def test_film_strip_takes_every_nth_frame_from_left_to_right() -> None:
    frames = np.arange(7, dtype=np.uint8)[:, None, None, None].repeat(5, 1).repeat(3, 2).repeat(3, 3)
    strip = film_strip(frames, every=3)
    assert strip.shape[1] == 3 * 3 + 2 * 2
    assert [strip[0, i * 5, 0] for i in range(3)] == [0, 3, 6]
