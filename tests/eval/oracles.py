"""Two pairs of points from Kaolin's tests, with values that numpy, scipy and Open3D 0.20 agree on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval.nearest import nearest_point


@dataclass(frozen=True)
class Oracle:
    """What is known of a pair."""

    pred: list[list[float]]
    ref: list[list[float]]
    squared_sum: float
    weighted: float  # 1.3 times the prediction's mean square, 0.8 times the reference's
    sum: float
    hausdorff: float
    nearest_squared: list[float]  # of the prediction's points

    def distances(self) -> tuple[Tensor, Tensor]:
        a, b = torch.tensor(self.pred, dtype=torch.float64), torch.tensor(self.ref, dtype=torch.float64)
        return nearest_point(a, b).distance, nearest_point(b, a).distance


K1 = Oracle(
    pred=[[8.8977, 4.1709, 1.2839], [8.5640, 7.7767, 9.4214]],
    ref=[[6.9340, 6.1152, 3.4435], [0.1032, 9.8181, 11.3350]],
    squared_sum=72.58384,
    weighted=71.43033,
    sum=11.17043,
    hausdorff=8.91147,
    nearest_squared=[12.3003, 41.1528],
)
K2 = Oracle(
    pred=[[0.5431, 6.4495, 11.4914], [3.2126, 8.0865, 3.1018]],
    ref=[[11.4006, 2.2154, 7.9589], [4.2586, 1.4133, 7.2606]],
    squared_sum=151.08087,
    weighted=150.86201,
    sum=17.11299,
    hausdorff=11.18502,
    nearest_squared=[57.0679, 62.9213],
)
