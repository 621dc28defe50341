"""Which rows of a data set are held out: equal rows and rows of one group never end in both parts."""

import numpy as np
import numpy.typing as npt

#: Different rows for each label from which on equal rows are kept together. With fewer, a hold-out part of whole groups
#: would leave out most of what there is, and says nothing of the rest.
ENOUGH = 20

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


def kept_back(
    features: npt.NDArray[np.floating],
    labels: npt.NDArray[np.generic],
    groups: npt.NDArray[np.int64] | None,
    holdout: float,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Whether each row is held out: about ``holdout`` of each label's rows, whole groups, one at least to train on."""
    names, index = np.unique(labels, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.searchsorted(index[order], np.arange(len(names) + 1))
    together = _together(features, len(names)) if groups is None else groups
    sides = None if together is None else _Sides(together)
    random = np.random.default_rng(seed)
    back = np.zeros(len(labels), dtype=bool)
    for label in range(len(names)):
        rows = order[starts[label] : starts[label + 1]]
        size = min(max(1, round(holdout * len(rows))), len(rows) - 1)
        mixed = random.permutation(rows)
        if sides is None:
            back[mixed[:size]] = True
        else:
            sides.hold_out(mixed, size)
    return back if sides is None else sides.held[sides.together]


class _Sides:
    """Which groups are held out, decided label by label.

    Attributes:
        held: By group.
    """

    def __init__(self, together: npt.NDArray[np.int64]) -> None:
        self.together = together
        self.held = np.zeros(int(together.max()) + 1, dtype=bool)
        self._decided = np.zeros_like(self.held)

    def hold_out(self, mixed: npt.NDArray[np.intp], size: int) -> None:
        """Hold out groups with about ``size`` of a label's rows, which come in the order of their lot."""
        found, first, counts = np.unique(self.together[mixed], return_index=True, return_counts=True)
        lot = np.argsort(first)
        found, counts = found[lot], counts[lot]
        count = int(counts[self.held[found]].sum())  # they hold rows of an earlier label, too
        left = int((~self.held[found]).sum())
        free = [(int(group), int(rows)) for group, rows in zip(found, counts, strict=True) if not self._decided[group]]
        if not count and free and all(rows > 2 * size for _, rows in free):
            size = min(rows for _, rows in free)  # there are large groups only: the smallest is too many, yet one
        for group, rows in free:
            if count >= size or left <= 1:
                break
            if count + rows <= 2 * size:
                self.held[group] = self._decided[group] = True
                count, left = count + rows, left - 1
        # One group that this label trains on is not taken away for a later label.
        self._decided[found[~self.held[found]][:1]] = True


def _together(features: npt.NDArray[np.floating], labels: int) -> npt.NDArray[np.int64] | None:
    """A number per row, the same for equal rows; None if there are none, or too few different ones."""
    different, same = np.unique(hashes(features), return_inverse=True)
    if len(different) == len(features) or len(different) < ENOUGH * labels:
        return None
    return same.astype(np.int64)


def hashes(features: npt.NDArray[np.floating]) -> npt.NDArray[np.uint64]:
    """A 64-bit number per row, equal for equal rows. That of two others is equal once in 10**19."""
    result = np.zeros(len(features), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in range(features.shape[1]):
            # Minus zero is zero; column by column, so that no copy of the whole is made.
            bits = (features[:, column].astype(np.float64) + 0.0).view(np.uint64)
            result = (result ^ bits) * _ODD
            result = (result ^ (result >> np.uint64(29))) * _MIX
    return result
