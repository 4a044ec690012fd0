"""The auction algorithm for assignments, compiled for the CPU (Bertsekas, "The Auction Algorithm", 1988).

Costs are distances between points, computed anew for every bid, so memory grows with the points only.
"""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, error_model="numpy")
def assign(bidders, objects, prices, owner, increment):
    """One phase: writes the bidder of each object, int64 [N], and raises prices [N].

    The mean cost is then at most `increment` above the optimum. Bidders and objects are fp64 [N, 3].
    """
    n = len(bidders)
    owner[:] = -1
    waiting = np.arange(n)
    count = n
    while count:
        count -= 1
        bidder = waiting[count]
        least, second, chosen = _two_least(bidders[bidder], objects, prices)
        if second == math.inf:
            second = least
        prices[chosen] += second - least + increment
        if owner[chosen] >= 0:
            waiting[count] = owner[chosen]
            count += 1
        owner[chosen] = bidder


@numba.njit(cache=True, nogil=True, error_model="numpy")
def total_costs(bidders, objects, prices, owner):
    """Sum of the costs of the assignment, and the dual bound beneath the optimum."""
    upper, lower = 0.0, -prices.sum()
    for j in range(len(objects)):
        d = bidders[owner[j]] - objects[j]
        upper += math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    for i in range(len(bidders)):
        lower += _two_least(bidders[i], objects, prices)[0]
    return upper, lower


@numba.njit(error_model="numpy")
def _two_least(point, objects, prices):
    """Least and second least sum of cost and price, and where the least is."""
    x, y, z = point
    least, second, chosen = math.inf, math.inf, 0
    for j in range(len(objects)):
        dx, dy, dz = objects[j, 0] - x, objects[j, 1] - y, objects[j, 2] - z
        cost = math.sqrt(dx * dx + dy * dy + dz * dz) + prices[j]
        if cost < second:
            if cost < least:
                second, least, chosen = least, cost, j
            else:
                second = cost
    return least, second, chosen
