"""Where the windows of a long video are."""

from __future__ import annotations

import pytest

from tokenreel.data.spec import Framing, StreamSpec, TokenSpec
from tokenreel.errors import ConfigError
from tokenreel.priors.sampling.sliding_window import WindowSpan, window_spans

FRAMING = Framing(height=8, width=8)
VIDEO = StreamSpec("video", (6, 1, 1), 5, stride=2)
SOUND = StreamSpec("sound", (4, 1, 1), 5, stride=3, role="control")
CLASS = StreamSpec("class", (1, 1, 1), 5, stride=12, role="control")
SPEC = TokenSpec((VIDEO, SOUND, CLASS), 12, FRAMING)


def spans(frames: int, window_stride: int) -> list[tuple[int, int, int]]:
    return [
        (span.start, span.overlap, span.frames) for span in window_spans(SPEC, [VIDEO, SOUND], frames, window_stride)
    ]


def test_streams_that_slide_with_the_video():
    assert [SPEC.runs_with_video(stream) for stream in SPEC.streams] == [True, True, False]


def test_windows():
    assert spans(6, 0) == [(0, 0, 6)]
    assert spans(12, 0) == [(0, 0, 12)]
    assert spans(24, 6) == [(0, 0, 12), (6, 6, 12), (12, 6, 12)]
    assert spans(24, 0) == spans(24, 6)


def test_the_last_window_ends_with_the_video():
    framewise = TokenSpec((StreamSpec("video", (5, 1, 1), 3),), 5, FRAMING)
    found = list(window_spans(framewise, framewise.streams, 12, 3))
    assert found == [WindowSpan(0, 0, 5), WindowSpan(3, 2, 5), WindowSpan(6, 2, 5), WindowSpan(7, 4, 5)]


@pytest.mark.parametrize(
    ("frames", "window_stride", "message"),
    [
        (20, 4, r"stream 'sound'.* its stride \(=3\)"),
        (24, 4, r"window_stride \(=4\) must be below the clip's 12 frames and a multiple of 6"),
        (24, 12, r"window_stride \(=12\)"),
        (0, 0, r"frames \(=0\)"),
    ],
)
def test_frames_and_strides_that_do_not_fit_are_refused(frames: int, window_stride: int, message: str):
    with pytest.raises(ConfigError, match=message):
        spans(frames, window_stride)


def test_window_tokens_do_not_allow_a_sliding_window():
    spec = TokenSpec((VIDEO,), 12, FRAMING, time="window")
    assert len(list(window_spans(spec, [VIDEO], 12, 0))) == 1
    with pytest.raises(ConfigError, match="requires framewise tokens"):
        list(window_spans(spec, [VIDEO], 24, 0))
