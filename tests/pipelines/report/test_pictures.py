"""Code maps and change maps as in LVT's appendix B: the code of each position, and where it changes."""

from __future__ import annotations

import numpy as np

from tokenreel.pipelines.report.pictures import (
    CHANGED,
    SAME,
    change_maps,
    code_maps,
    code_picture,
    film_strip,
    indexed_colours,
)


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


def test_code_picture_has_steps_in_columns_maps_in_rows_and_a_bar_after_given_steps() -> None:
    """Pixel by pixel: a code is a square of 64 // 7 = 9 pixels, tiles are 2 apart, the bar of 4 takes one more gap."""
    t, h, w, q, square, gap = 5, 3, 7, 2, 9, 2
    codes = np.random.default_rng(1).integers(0, 4, (t, h, w, q))
    white, black = np.uint8(255), np.uint8(0)
    plain = np.full((2 * q * (h * square + gap) - gap, t * (w * square + gap) - gap, 3), white)
    for step, y, x, codebook in np.ndindex(t, h, w, q):
        code, changed = (
            codes[step, y, x, codebook],
            step > 0 and codes[step, y, x, codebook] != codes[step - 1, y, x, codebook],
        )
        for row, colour in ((codebook, indexed_colours(code)), (q + codebook, CHANGED if changed else SAME)):
            top, left = row * (h * square + gap) + y * square, step * (w * square + gap) + x * square
            plain[top : top + square, left : left + square] = colour
    for given in (0, t):
        assert np.array_equal(code_picture(codes, given), plain)
    cut = 3 * (w * square + gap)
    bar = np.full((len(plain), 4, 3), black)
    parted = np.concatenate([plain[:, :cut], bar, np.full((len(plain), gap, 3), white), plain[:, cut:]], axis=1)
    assert np.array_equal(code_picture(codes, given=3), parted)


def test_a_long_or_wide_clip_keeps_at_least_a_pixel_for_each_code() -> None:
    assert code_picture(np.zeros((5003, 1, 2, 1), int)).shape == (1 + 2 + 1, 5003 * 4 - 2, 3)
    assert code_picture(np.zeros((2, 1, 101, 1), int)).shape == (1 + 2 + 1, 2 * 101 + 2, 3)
    assert code_picture(np.zeros((3, 1, 1, 1), int)).shape == (64 + 2 + 64, 3 * 64 + 4, 3)
