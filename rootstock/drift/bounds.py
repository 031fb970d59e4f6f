"""What a rate can be, given how often something was seen. Chernoff's bound in its binomial form. Pure functions."""

import math


def divergence(found: float, rate: float) -> float:
    """The Kullback-Leibler divergence of two binary events of these rates, in nats."""
    total = 0.0
    for p, q in ((found, rate), (1.0 - found, 1.0 - rate)):
        if p > 0.0:
            total += p * math.log(p / q) if q > 0.0 else math.inf
    return total


def upper(hits: float, trials: float, miss: float) -> float:
    """The rate that the true one exceeds with a chance of at most `miss`, seen `hits` in `trials` (Hoeffding, 1963)."""
    return _edge(hits / trials, math.log(1.0 / miss) / trials, 1.0) if trials > 0 else 1.0


def lower(hits: float, trials: float, miss: float) -> float:
    """The rate that the true one is below with a chance of at most `miss`."""
    return _edge(hits / trials, math.log(1.0 / miss) / trials, 0.0) if trials > 0 else 0.0


def _edge(found: float, allowed: float, end: float) -> float:
    near, far = found, end
    for _ in range(50):
        middle = (near + far) / 2
        if divergence(found, middle) <= allowed:
            near = middle
        else:
            far = middle
    return far
