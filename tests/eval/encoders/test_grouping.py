"""Neighbourhoods, against plain loops."""

from __future__ import annotations

import plain_encoders
import pytest
import torch

from eval.encoders.grouping import ball_neighbours, farthest_points, gather, nearest_neighbours, normalise


@pytest.mark.parametrize("skip_origin", [False, True])
def test_farthest_points_are_those_of_loops(skip_origin: bool) -> None:
    clouds = torch.rand(3, 50, 3) - 0.5
    clouds[:, 7] = 0.01  # near the origin
    chosen = farthest_points(clouds, 50, skip_origin=skip_origin)
    for cloud, indices in zip(clouds, chosen, strict=True):
        assert indices.tolist() == plain_encoders.farthest(cloud.double().numpy(), 50, skip_origin)


def test_points_near_the_origin_are_skipped_unless_they_come_first() -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [0.03, 0, 0], [0.5, 0, 0], [0.1, 0, 0]]])
    assert farthest_points(cloud, 4, skip_origin=True).tolist() == [[0, 2, 3, 2]]
    assert farthest_points(cloud, 4).tolist() == [[0, 2, 3, 1]]


def test_equally_far_points_go_by_their_order() -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0]]])
    assert farthest_points(cloud, 2).tolist() == [[0, 1]]


def test_more_farthest_points_than_points_are_refused() -> None:
    with pytest.raises(ValueError, match="a cloud of 3 points has no 4"):
        farthest_points(torch.rand(1, 3, 3), 4)


def test_neighbours_are_the_nearest() -> None:
    clouds, centres = torch.rand(2, 30, 3), torch.rand(2, 5, 3)
    found = nearest_neighbours(clouds, centres, 6)
    for b in range(2):
        for g in range(5):
            expected = plain_encoders.nearest(clouds[b].double().numpy(), centres[b, g].double().numpy(), 6)
            assert sorted(found[b, g].tolist()) == sorted(expected)


def test_balls_hold_the_first_points_and_repeat_the_first_of_them() -> None:
    clouds = torch.rand(2, 60, 3)
    centres = clouds[:, :10]
    found = ball_neighbours(clouds, centres, 0.3, 8)
    lengths = set()
    for b in range(2):
        for g in range(10):
            expected = plain_encoders.ball(clouds[b].double().numpy(), centres[b, g].double().numpy(), 0.3, 8)
            assert found[b, g].tolist() == expected
            lengths.add(len(set(expected)))
    assert 8 in lengths  # some are full
    assert min(lengths) < 8  # and some are not


def test_a_ball_of_more_points_than_the_cloud_has() -> None:
    cloud = torch.tensor([[[0.0, 0, 0], [5, 0, 0], [0.1, 0, 0]]])
    assert ball_neighbours(cloud, cloud[:, 2:], 1.0, 5).tolist() == [[[0, 2, 0, 0, 0]]]


def test_groups_of_a_cloud_do_not_depend_on_the_batch() -> None:
    clouds = torch.rand(5, 200, 3)
    centres = farthest_points(clouds, 20)
    members = nearest_neighbours(clouds, gather(clouds, centres), 7)
    for i in range(5):
        alone = clouds[i : i + 1]
        assert torch.equal(farthest_points(alone, 20)[0], centres[i])
        neighbours = nearest_neighbours(alone, gather(alone, centres[i : i + 1]), 7)[0]
        assert torch.equal(neighbours.sort(-1).values, members[i].sort(-1).values)


def test_normalised_clouds_have_their_mean_at_the_origin_and_radius_1() -> None:
    clouds = torch.rand(4, 50, 3, dtype=torch.float64) * 7 + 3
    result = normalise(clouds)
    torch.testing.assert_close(result.mean(1), torch.zeros(4, 3, dtype=torch.float64))
    torch.testing.assert_close(result.norm(dim=-1).amax(1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(normalise(clouds * 5 - 2), result)


def test_a_cloud_of_one_place_becomes_zeros() -> None:
    assert torch.equal(normalise(torch.full((9, 3), 4.2)), torch.zeros(9, 3))
