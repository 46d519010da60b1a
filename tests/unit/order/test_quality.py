from __future__ import annotations

import numpy as np
import pytest

from ray_lance.errors import InvalidArgumentError
from ray_lance.order.permutation import RowPermutation
from ray_lance.order.quality import label_distance, measure_quality, true_shuffle_distance
from ray_lance.order.rows import DenseRows
from ray_lance.order.shuffle import auto_clump, auto_window


def default_order(count: int, row_bytes: int = 528) -> RowPermutation:
    clump = auto_clump(row_bytes, count)
    return RowPermutation(DenseRows(count)).shuffle(0, clump, auto_window(count, clump))


@pytest.mark.parametrize("count", [200_000, 300_001, 500_000, 1_000_000])
@pytest.mark.parametrize("epoch", [0, 1])
def test_defaults_mix_label_sorted_rows_as_a_true_shuffle_does(count, epoch):
    order = default_order(count).epoch(epoch)
    batches = order.rows()[: count // 1024 * 1024].reshape(-1, 1024)
    found = label_distance(batches * 10 // count, 10).mean()
    true = np.random.default_rng(epoch).permutation(count)[: batches.size].reshape(-1, 1024)
    assert found <= 1.1 * label_distance(true * 10 // count, 10).mean()


@pytest.mark.parametrize("count", [200_000, 300_001, 1_000_000, 10**11])
def test_defaults_are_within_their_bound_on_the_worst_data(count):
    quality = measure_quality(default_order(count), batches=512)
    assert quality.clumped_label_ratio <= 1.5
    assert quality.sorted_label_ratio <= 1.1


@pytest.mark.parametrize("clumps_per_window", [64, 256, 1024, 4096])
def test_the_worst_data_depends_on_clumps_per_window_alone(clumps_per_window):
    predicted = np.sqrt(1 + 1024 / clumps_per_window)
    for clump in (16, 64):
        order = RowPermutation(DenseRows(2**26)).shuffle(1, clump, clump * clumps_per_window)
        quality = measure_quality(order, batches=256)
        assert quality.clumps_per_window == clumps_per_window
        assert quality.clumped_label_ratio == pytest.approx(predicted, rel=0.12)


def test_small_windows_are_good_enough_for_sorted_labels():
    quality = measure_quality(RowPermutation(DenseRows(10**6)).shuffle(0, 64, 64 * 128), batches=256)
    assert quality.sorted_label_ratio <= 1.1


def test_a_row_exact_shuffle_has_the_quality_of_a_true_one():
    quality = measure_quality(RowPermutation(DenseRows(10**6)).shuffle(0, 1, 1), batches=256)
    assert quality.sorted_label_ratio == pytest.approx(1, abs=0.1)
    assert quality.clumped_label_ratio == pytest.approx(1, abs=0.1)
    assert quality.neighbour_distance_ratio == pytest.approx(1, abs=0.05)


def test_no_shuffle_is_seen_as_none():
    quality = measure_quality(RowPermutation(DenseRows(10**6)))
    assert quality.sorted_label_ratio > 20
    assert quality.neighbour_distance_ratio < 1e-5
    assert quality.clumps_per_window == 0


def test_the_true_shuffles_distance_is_that_of_simulated_shuffles():
    generator = np.random.default_rng(0)
    for count, batch_size, labels in ((10_000, 1024, 10), (5000, 256, 4), (2000, 1500, 10)):
        batches = np.stack([generator.permutation(count)[:batch_size] * labels // count for _ in range(300)])
        simulated = label_distance(batches, labels).mean()
        assert true_shuffle_distance(count, batch_size, labels) == pytest.approx(simulated, rel=0.06)


def test_label_distance_is_total_variation():
    batches = np.array([[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]])
    assert label_distance(batches, 2).tolist() == [0, 0.5, 0.25]


@pytest.mark.parametrize("count", [1, 2, 9, 1024])
def test_orders_of_no_more_than_a_batch_can_be_measured(count):
    quality = measure_quality(RowPermutation(DenseRows(count)).shuffle(0, 1, 1))
    assert quality.batch_size == count
    assert quality.sorted_label_ratio == 1


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, "no rows"),
        (9, {"labels": 1}, "labels=1"),
        (9, {"batches": 0}, "batches=0"),
        (9, {"batch_size": 0}, "=0"),
    ],
)
def test_refuses_what_cannot_be_measured(count, options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        measure_quality(RowPermutation(DenseRows(count)), **options)
