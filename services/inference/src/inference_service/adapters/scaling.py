"""Each feature's scale, in 64 bits: the network behind it computes in 32."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference_service.adapters.datasets import Features

CELLS = 2**20  #: Numbers that are converted at a time: 8 MiB in 64 bits.

#: Deviations from the mean beyond which a value is no longer computed with: sums of weighted inputs must fit into 32
#: bits, which end at 3.4e38.
FARTHEST = 1e30


@dataclass(frozen=True)
class Scaling:
    """Subtracts each feature's mean, and divides by its deviation.

    Attributes:
        centre: The means.
        spread: The standard deviations; infinite for a feature that never varied, which is always 0 then.
    """

    centre: npt.NDArray[np.float64]
    spread: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, features: Features) -> "Scaling":
        """The scale of these rows. No square overflows and none vanishes, whatever the unit of a feature."""
        lowest = features.min(axis=0).astype(np.float64)
        highest = features.max(axis=0).astype(np.float64)
        total = np.zeros(features.shape[1])
        for rows in chunks(features):
            total += rows.sum(axis=0, dtype=np.float64)
        centre = np.clip(total / len(features), lowest, highest)
        farthest = np.maximum(highest - centre, centre - lowest)
        farthest[farthest == 0] = np.inf
        total[:] = 0
        for rows in chunks(features):
            total += (((rows - centre) / farthest) ** 2).sum(axis=0)
        varied = np.isfinite(farthest)
        spread = np.full(features.shape[1], np.inf)
        spread[varied] = farthest[varied] * np.sqrt(total[varied] / len(features))
        return cls(centre, spread)

    def apply(self, features: Features) -> npt.NDArray[np.float32]:
        """The rows as the network sees them; infinite where a value is farther away than 32 bits reach."""
        with np.errstate(over="ignore"):
            scaled: npt.NDArray[np.float32] = ((features - self.centre) / self.spread).astype(np.float32)
        return scaled


def chunks(features: Features) -> list[Features]:
    """The rows in parts of at most ``CELLS`` numbers each."""
    step = max(1, CELLS // features.shape[1])
    return [features[start : start + step] for start in range(0, len(features), step)]
