"""Seeded times around 1 ms, as clocks and machines produce them."""

from __future__ import annotations

import numpy as np

Shape = tuple[int, ...]


def lognormal(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """1 % noise."""
    return np.exp(0.01 * generator.standard_normal(shape))


def heavy_tailed(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Student's t of two degrees of freedom: infinite variance."""
    return np.exp(0.01 * generator.standard_t(2, shape))


def quantised(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """A clock of half a percent resolution: most samples are tied."""
    return np.round(lognormal(generator, shape) / 0.005) * 0.005


def one_sided(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """Nothing is faster than the work; interruptions make it slower."""
    return 1.0 + 0.01 * generator.exponential(size=shape)


def correlated(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """1 % noise of which half carries over from one sample to the next."""
    steps = generator.standard_normal(shape)
    noise = np.empty(shape)
    noise[..., 0] = steps[..., 0]
    for i in range(1, shape[-1]):
        noise[..., i] = 0.5 * noise[..., i - 1] + np.sqrt(0.75) * steps[..., i]
    return np.exp(0.01 * noise)


MODELS = (lognormal, heavy_tailed, quantised, one_sided, correlated)


def drifting(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """1 % noise on times that grow by a tenth from the first to the last."""
    return lognormal(generator, shape) * np.linspace(1.0, 1.1, shape[-1])


def two_modes(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """1 % noise; stretches of about a hundred samples in each of two states, 15 % apart."""
    flips = generator.random(shape) < 0.01
    return lognormal(generator, shape) * np.where(np.cumsum(flips, axis=-1) % 2, 1.15, 1.0)


def throttled(generator: np.random.Generator, shape: Shape) -> np.ndarray:
    """1 % noise; at some moment the clock falls by 30 % for the rest of the series."""
    moment = generator.integers(shape[-1], size=(*shape[:-1], 1))
    return lognormal(generator, shape) * np.where(np.arange(shape[-1]) < moment, 1.0, 1.3)
