"""Raw controls of the rows of a plan, read ahead through a decode pool: by track what its coder needs, row by row."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tokenreel.data.controls.needs import ClassNeed, Need, Raw, RawRequest
from tokenreel.data.decoding.pool import DecodePool
from tokenreel.data.plan import Plan
from tokenreel.data.video.reader import DecodeFailure

RawClip = dict[str, Raw]  # by track


def read_raw_spans(
    plan: Plan, pool: DecodePool, needs: Mapping[str, Need], spans: Iterable[range], ahead: int
) -> Iterator[list[RawClip] | DecodeFailure]:
    """For each span, rows of one video, the raw controls of each row, or why those rows have none.

    `ahead` spans are in flight at most. Raises DataError where the data does not have what is needed.
    """
    from_pool = {name: need for name, need in needs.items() if not isinstance(need, ClassNeed)}
    asked: deque[tuple[range, np.ndarray]] = deque()

    def requests() -> Iterator[RawRequest]:
        for span in spans:
            wanted = np.stack([plan.ticks(row) for row in span])
            ticks, places = np.unique(wanted, return_inverse=True)
            asked.append((span, places.reshape(wanted.shape)))
            for need in from_pool.values():
                yield plan.raw_request(int(plan.video[span.start]), need, ticks)

    if not from_pool:
        yield from ([_with_classes(plan, needs, row, {}) for row in span] for span in spans)
        return
    results = pool.read_raw(requests(), ahead * len(from_pool))
    for first in results:
        answers = [first, *(next(results) for _ in range(len(from_pool) - 1))]
        span, places = asked.popleft()
        failure = next((answer.failure for answer in answers if answer.failure is not None), None)
        if failure is not None:
            yield failure
            continue
        raws = [answer.raw for answer in answers if answer.raw is not None]
        clips = ({name: raw[place] for name, raw in zip(from_pool, raws, strict=True)} for place in places)
        yield [_with_classes(plan, needs, row, clip) for row, clip in zip(span, clips, strict=True)]


def _with_classes(plan: Plan, needs: Mapping[str, Need], row: int, read: Mapping[str, np.ndarray]) -> RawClip:
    """What was read, in the order of `needs`, and the class, which the plan knows."""
    return {name: plan.class_name(row) if isinstance(need, ClassNeed) else read[name] for name, need in needs.items()}
