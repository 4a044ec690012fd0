"""What a table says of rows, and how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from rows_factory import PROTOCOL, failed, ok, unusable

from eval.aggregate import aggregate, bootstrap_interval, holm, signed_rank_p
from eval.rows import Row


def rows_of(scores: dict[str, list[float]]) -> list[Row]:
    return [ok(f"asset{i}", method, cd=value) for method, values in scores.items() for i, value in enumerate(values)]


def test_means_and_order() -> None:
    found = aggregate(rows_of({"bad": [3, 5], "good": [1, 3]}), PROTOCOL)
    assert found.methods == ["good", "bad"]
    assert found.summaries["good", "cd"].mean == 2
    assert found.summaries["bad", "cd"].median == 4


def test_a_failed_asset_counts_with_the_worst_score() -> None:
    found = aggregate([ok("a", "m", cd=1), failed("b", "m")], PROTOCOL)
    worst = {metric.key: metric.worst(PROTOCOL.diagonal) for metric in PROTOCOL.scored}
    assert found.summaries["m", "cd"].mean == pytest.approx((1 + worst["cd"]) / 2)
    assert found.summaries["m", "f_0.01"].mean == pytest.approx(50 / 2)
    assert [row.asset for row in found.failed] == ["b"]


def test_an_asset_without_a_reference_counts_for_no_method() -> None:
    rows = [ok("a", "m", cd=1), ok("a", "n", cd=2), unusable("b", "m"), failed("b", "n")]
    found = aggregate(rows, PROTOCOL)
    assert found.assets == ["a"]
    assert found.failed == []
    assert len(found.left_out) == 1


def test_rows_that_do_not_belong_together_are_refused() -> None:
    other = ok("a", "m").model_copy(update={"protocol_digest": "0" * 16})
    with pytest.raises(ValueError, match="must all be of the protocol roundtrip"):
        aggregate([other], PROTOCOL)
    with pytest.raises(ValueError, match="none for b by n"):
        aggregate([ok("a", "m"), ok("b", "m"), ok("a", "n")], PROTOCOL)
    with pytest.raises(ValueError, match="no asset has a usable reference"):
        aggregate([unusable("a", "m")], PROTOCOL)


def test_methods_that_differ_on_every_asset_are_told_apart() -> None:
    base = np.random.default_rng(0).uniform(1, 2, 20)
    found = aggregate(rows_of({"worse": list(base + 0.1), "better": list(base)}), PROTOCOL)
    comparison = next(c for c in found.comparisons if c.metric.key == "cd")
    assert comparison.better == "better"
    assert (comparison.first_better, comparison.second_better) == (20, 0)
    assert comparison.p < 1e-4
    # Intervals of the methods overlap; that of their difference is narrow, because assets are paired.
    assert comparison.interval == pytest.approx((-0.1, -0.1))
    equal = next(c for c in found.comparisons if c.metric.key == "nc")
    assert equal.p == 1


def test_higher_is_better_for_f_scores() -> None:
    rows = [ok("a", "m", **{"f_0.01": 90}), ok("a", "n", **{"f_0.01": 80})]
    comparison = next(c for c in aggregate(rows, PROTOCOL).comparisons if c.metric.key == "f_0.01")
    assert (comparison.better, comparison.first_better + comparison.second_better) == ("m", 1)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(generator.exponential(size=60), seed=seed) or (0, 0)
        covered += low <= 1 <= high
    assert 0.87 <= covered / 200 <= 0.98
    assert bootstrap_interval(np.array([1.0])) is None


def test_p_values_are_known_for_few_signs() -> None:
    assert signed_rank_p(np.array([1.0, 2, 3, 4, 5])) == pytest.approx(2 / 2**5)
    assert signed_rank_p(np.array([-1.0, -2, -3, -4, -5])) == pytest.approx(2 / 2**5)
    assert signed_rank_p(np.zeros(5)) == 1
    assert signed_rank_p(np.array([1.0])) == 1


def test_equal_methods_are_rarely_called_different() -> None:
    generator = np.random.default_rng(0)
    called = [signed_rank_p(generator.standard_normal(20)) < 0.05 for _ in range(1000)]
    assert 0.03 <= np.mean(called) <= 0.07


def test_holm_corrects_as_its_author_does() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
