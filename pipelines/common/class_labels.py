"""The classes of a plan's clips, as a class-conditional generator numbers them."""

from __future__ import annotations

import numpy as np

from tokenreel.data.plan import NO_LABEL, Plan
from tokenreel.errors import DataError


def training_classes(plan: Plan) -> tuple[str, ...]:
    """The names of the training clips' classes, sorted. Raises DataError where a training video has none."""
    rows = plan.rows("train")
    unlabelled = np.unique(plan.video[rows[plan.label[rows] == NO_LABEL]])
    if len(unlabelled):
        raise DataError(
            f"{len(unlabelled)} of {len(np.unique(plan.video[rows]))} training videos have no class, e.g. "
            f"{plan.videos[unlabelled[0]].id}: the class of a video is its sub-folder, or `label` in metadata.csv: "
            "give one to each, or set generator.class_conditional to false"
        )
    return tuple(sorted({plan.classes[label] for label in plan.label[rows].tolist()}))


def class_indices(plan: Plan, classes: tuple[str, ...]) -> np.ndarray:
    """int64 [N]: by row the index into `classes`; NO_LABEL where the clip has none of them."""
    by_label = [classes.index(name) if name in classes else NO_LABEL for name in plan.classes]
    return np.array([*by_label, NO_LABEL], dtype=np.int64)[plan.label]  # NO_LABEL, -1, is the last one
