"""Measures a shuffle: a permutation in, the quality of a sample of its batches out, in bounded time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ray_lance.arguments import as_integer
from ray_lance.errors import InvalidArgumentError
from ray_lance.order.keys import derive_words, mix64
from ray_lance.order.permutation import RowPermutation

__all__ = ["ShuffleQuality", "label_distance", "measure_quality", "true_shuffle_distance"]

_Words = npt.NDArray[np.uint64]
_TRUE_SHUFFLE_SAMPLES = 2000
# Independent labellings of the clumps that are averaged: one alone is off by a tenth where windows are few.
_DRAWS = 8
# Mean distance of two independent uniform points of [0, 1].
_MEAN_DISTANCE = 1 / 3


@dataclass(frozen=True)
class ShuffleQuality:
    """The quality of a sample of an order's batches. All ratios are 1 for a true shuffle.

    Attributes:
        sorted_label_ratio: Mean distance of the batches' label histograms from uniform over a true shuffle's, where
            the rows are sorted by label.
        clumped_label_ratio: The same where each clump has one label and clumps have independent ones: the worst data
            for a shuffle that moves clumps. About ``sqrt(1 + batch_size / clumps_per_window)``.
        neighbour_distance_ratio: Mean distance in positions of two rows that are neighbours on disk, over that of a
            true shuffle, a third of the rows.
        clumps_per_window: Clumps that a window mixes; 0 for an order that is not shuffled.
        batch_size: Rows per batch.
        labels: Number of labels.
        batches: Number of batches that were looked at.
    """

    sorted_label_ratio: float
    clumped_label_ratio: float
    neighbour_distance_ratio: float
    clumps_per_window: int
    batch_size: int
    labels: int
    batches: int


def measure_quality(
    permutation: RowPermutation, batch_size: int = 1024, labels: int = 10, batches: int = 64
) -> ShuffleQuality:
    """Measure a permutation on a sample of its batches, spread evenly over it, without reading data.

    Labels are given to indices of the row set, so row ids are not needed. Takes tens of milliseconds.

    Args:
        permutation: The order, or a slice of it, in any epoch.
        batch_size: Rows per batch, consecutive positions; less if the permutation has fewer.
        labels: Number of labels, all equally frequent, at least 2.
        batches: How many batches to look at, at least 1.

    Raises:
        InvalidArgumentError: The permutation is empty, or an argument is too small.
    """
    labels = as_integer("labels", labels, minimum=2)
    batches = as_integer("batches", batches, minimum=1)
    batch_size = min(as_integer("batch_size", batch_size, minimum=1), len(permutation))
    if not len(permutation):
        raise InvalidArgumentError("permutation has no rows: there is nothing to measure")
    starts = _spread(len(permutation) - batch_size + 1, batches)
    sample = np.stack([permutation.indices(start, start + batch_size) for start in starts])
    expected = true_shuffle_distance(len(permutation), batch_size, labels)
    clump = 1 if permutation.mixing is None else permutation.mixing.clump
    return ShuffleQuality(
        sorted_label_ratio=_ratio(_sorted_labels(sample, len(permutation.row_set), labels), labels, expected),
        clumped_label_ratio=float(
            np.mean(
                [_ratio(_clumped_labels(sample // clump, labels, draw), labels, expected) for draw in range(_DRAWS)]
            )
        ),
        neighbour_distance_ratio=_neighbour_distance(permutation) / max(_MEAN_DISTANCE * len(permutation.row_set), 1),
        clumps_per_window=0 if permutation.mixing is None else permutation.clump_order.clumps_per_window,
        batch_size=batch_size,
        labels=labels,
        batches=len(starts),
    )


def label_distance(labels_of_batches: npt.NDArray[np.int64], labels: int) -> npt.NDArray[np.float64]:
    """Total variation distance of each batch's label histogram from the uniform one, from 0 to 1.

    Args:
        labels_of_batches: int64 array of shape ``(batches, batch_size)`` with values in ``[0, labels)``.
        labels: Number of labels.

    Returns:
        float64 array of shape ``(batches,)``.
    """
    batches, batch_size = labels_of_batches.shape
    cells = (labels_of_batches + labels * np.arange(batches)[:, None]).ravel()
    counts = np.bincount(cells, minlength=batches * labels).reshape(batches, labels)
    distance: npt.NDArray[np.float64] = 0.5 * np.abs(counts / batch_size - 1 / labels).sum(axis=1)
    return distance


def true_shuffle_distance(count: int, batch_size: int, labels: int) -> float:
    """Mean ``label_distance`` of batches of a true shuffle of ``count`` rows with equally frequent labels.

    A fixed sample of multinomial batches, scaled by the finite population's ``sqrt((count - batch) / (count - 1))``.
    """
    generator = np.random.Generator(np.random.PCG64(0))
    counts = generator.multinomial(batch_size, np.full(labels, 1 / labels), size=_TRUE_SHUFFLE_SAMPLES)
    with_replacement = 0.5 * np.abs(counts / batch_size - 1 / labels).sum(axis=1).mean()
    return float(with_replacement * math.sqrt((count - batch_size) / max(count - 1, 1)))


def _spread(places: int, samples: int) -> list[int]:
    """Up to ``samples`` different starts in ``[0, places)``, from the first to the last."""
    samples = min(places, samples)
    return [number * (places - 1) // max(samples - 1, 1) for number in range(samples)]


def _ratio(labels_of_batches: npt.NDArray[np.int64], labels: int, expected: float) -> float:
    found = float(label_distance(labels_of_batches, labels).mean())
    # A batch that holds every row has no choice: any order is as good as any other.
    return found / expected if expected > 0 else 1.0


def _sorted_labels(indices: npt.NDArray[np.int64], count: int, labels: int) -> npt.NDArray[np.int64]:
    bounds = np.array([label * count // labels for label in range(1, labels)], dtype=np.int64)
    return np.searchsorted(bounds, indices, side="right").astype(np.int64)


def _clumped_labels(clumps: npt.NDArray[np.int64], labels: int, draw: int) -> npt.NDArray[np.int64]:
    base = int(derive_words(("quality", draw), 1)[0])
    return (mix64(clumps.view(np.uint64), base) % np.uint64(labels)).astype(np.int64)


def _neighbour_distance(permutation: RowPermutation, samples: int = 4096) -> float:
    """Mean distance in positions between rows ``i`` and ``i + 1``, over the whole order that this is a slice of."""
    count = len(permutation.row_set)
    if permutation.mixing is None or count < 2:
        return 1.0
    rows = np.array(_spread(count - 1, samples), dtype=np.int64)
    order = permutation.clump_order
    distance = np.abs(order.positions_of(rows + 1) - order.positions_of(rows))
    return float(distance.astype(np.float64).mean())
