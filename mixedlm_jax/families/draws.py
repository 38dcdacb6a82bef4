"""Random draws that the families' samplers are made of, elementwise in JAX.

One program serves all values of the arguments, so that it can be compiled and vmapped. Its loops
go on until the slowest row is done: vmap over some thousand rows at a time, `jax.lax.map` beyond. A
loop ends after a fixed number of rounds whatever happens; proposals that are all refused have a
probability below 1e-50. Means and shapes that are not finite give nan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mixedlm_jax.arrays import Array
from mixedlm_jax.families.loggamma import HALF_LOG_2PI, binet

_FEW = 30.0  # the mean from which rejection takes the place of inversion
_ROUNDS = 200  # of proposals, of which more than half are accepted


def positive_uniform(key: Array, like: Array) -> Array:
    """Uniform on (0, 1], of the shape and precision of `like`."""
    return 1.0 - jax.random.uniform(key, jnp.shape(like), like.dtype)


def poisson(key: Array, mean: Array) -> Array:
    """Poisson counts.

    Means below 30 by inversion; others by transformed rejection (Hoermann 1993, Insurance:
    Mathematics and Economics 12, algorithm PTRS).
    """
    few = mean < _FEW
    low, high = jnp.where(few, mean, 0.0), jnp.where(few, _FEW, mean)
    of_few, of_many = jax.random.split(key)
    small = _inverted(of_few, low, jnp.exp(-low), lambda k: low / k, jnp.full_like(mean, jnp.inf))
    b = 0.931 + 2.53 * jnp.sqrt(high)
    large = _transformed(
        of_many,
        ~few & (mean < jnp.inf),
        high + 0.43,
        b,
        0.02483 * b - 0.059,
        jnp.log(1.1239 + 1.1328 / (b - 3.4)),
        lambda k: log_poisson(k, high),
        jnp.full_like(mean, jnp.inf),
    )
    return jnp.where(few, small, large)


def binomial(key: Array, trials: Array, success: Array, failure: Array) -> Array:
    """Numbers of successes.

    success, failure: their probabilities, which add up to 1, each with all its digits. Where the
    mean of the rarer outcome is below 30 by inversion, else by transformed rejection (Hoermann
    1993, Journal of Statistical Computation and Simulation 46, algorithm BTRD's).
    """
    flipped = success > failure
    p, q = jnp.where(flipped, failure, success), jnp.where(flipped, success, failure)
    mean = trials * p
    few = mean < _FEW
    of_few, of_many = jax.random.split(key)
    odds = jnp.where(few, p / q, 0.0)
    none = jnp.exp(jnp.where(few, trials, 0.0) * jnp.log1p(-p))
    small = _inverted(
        of_few, jnp.where(few, mean, 0.0), none, lambda k: odds * (trials - k + 1.0) / k, trials
    )
    # the rows above have any numbers here that are no trouble
    m = jnp.where(few, 4.0 * _FEW, trials)
    p, q = jnp.where(few, 0.5, p), jnp.where(few, 0.5, q)
    spread = jnp.sqrt(m * p * q)
    b = 1.15 + 2.53 * spread
    mode = jnp.floor((m + 1.0) * p)
    log_odds, lgamma = jnp.log(p / q), jax.lax.lgamma

    def log_ratio(k: Array) -> Array:
        choices = lgamma(mode + 1.0) + lgamma(m - mode + 1.0) - lgamma(k + 1.0)
        return choices - lgamma(m - k + 1.0) + (k - mode) * log_odds

    large = _transformed(
        of_many,
        ~few & (mean < jnp.inf),
        m * p + 0.5,
        b,
        0.0248 * b + 0.01 * p - 0.0873,
        jnp.log((2.83 + 5.1 / b) * spread),
        log_ratio,
        m,
    )
    rare = jnp.where(few, small, large)
    return jnp.where(flipped, trials - rare, rare)


def log_of_gamma(key: Array, shape: Array) -> Array:
    """Logarithms of Gamma variables of unit scale, which may be too small for a number.

    By Marsaglia and Tsang (2000, ACM Transactions on Mathematical Software 26); for shapes below 1
    that of shape + 1, to which log(U) / shape is added.
    """
    boosted, proposals = jax.random.split(key)
    small = shape < 1.0
    d = jnp.where(small, shape + 1.0, shape) - 1.0 / 3.0
    c = 1.0 / jnp.sqrt(9.0 * d)

    def propose(own: Array) -> tuple[Array, Array]:
        of_x, of_u = jax.random.split(own)
        x = jax.random.normal(of_x, jnp.shape(d), d.dtype)
        possible = c * x > -1.0
        cube = 3.0 * jnp.log1p(jnp.where(possible, c * x, 0.0))
        kept = jnp.log(positive_uniform(of_u, d)) < 0.5 * x * x + d * (cube - jnp.expm1(cube))
        return jnp.log(d) + cube, kept & possible

    value = _until_kept(proposals, shape < jnp.inf, propose, jnp.full_like(d, jnp.nan))
    boost = jnp.log(positive_uniform(boosted, d)) / jnp.where(small, shape, 1.0)
    return value + jnp.where(small, boost, 0.0)


def log_poisson(k: Array, mean: Array) -> Array:
    """The logarithm of a Poisson probability, with its digits also for counts that are enormous."""
    positive = k > 0
    count = jnp.where(positive, k, 1.0)
    away = (mean - count) / count
    log_count = jnp.log(count)
    distance = count * (jnp.log1p(away) - away)
    inside = distance - 0.5 * log_count - HALF_LOG_2PI - binet(count, log_count)
    return jnp.where(positive, inside, -mean)


def _inverted(
    key: Array, mean: Array, none: Array, ratio: Callable[[Array], Array], most: Array
) -> Array:
    """Counts up to `most` by going through their distribution function from 0.

    none: P(0). ratio: of k, P(k) / P(k - 1).
    """
    u = jax.random.uniform(key, jnp.shape(none), none.dtype)
    # what is left of u may be a rounding error, below which the chances far out need not come
    negligible = 0.05 * jnp.finfo(none.dtype).eps

    def short(state: tuple[Array, Array, Array]) -> Array:
        count, left, chance = state
        return (left >= chance) & ((chance > negligible) | (count < mean)) & (count < most)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, left, chance = state
        onward = short(state)
        left = jnp.where(onward, left - chance, left)
        count = count + onward
        return count, left, jnp.where(onward, chance * ratio(count), chance)

    count, _, _ = jax.lax.while_loop(
        lambda state: jnp.any(short(state)), step, (jnp.zeros_like(none), u, none)
    )
    return count


def _transformed(
    key: Array,
    wanted: Array,
    centre: Array,
    b: Array,
    a: Array,
    log_scale: Array,
    log_chance: Callable[[Array], Array],
    most: Array,
) -> Array:
    """Counts from 0 to `most` by transformed rejection with Hoermann's names for its numbers.

    k = floor((2 a / (1/2 - |U|) + b) U + centre), U uniform on (-1/2, 1/2), is kept with
    probability P(k) (a / (1/2 - |U|)^2 + b) / scale. wanted: the rows to draw, others are nan.
    """

    def propose(own: Array) -> tuple[Array, Array]:
        of_u, of_v = jax.random.split(own)
        u = positive_uniform(of_u, b) - 0.5
        v = positive_uniform(of_v, b)
        rest = jnp.maximum(0.5 - jnp.abs(u), jnp.finfo(b.dtype).tiny)
        k = jnp.floor((2.0 * a / rest + b) * u + centre)
        possible = (k >= 0) & (k <= most)
        k = jnp.where(possible, k, 0.0)
        bound = log_chance(k) - log_scale
        return k, possible & (jnp.log(v / (a / rest**2 + b)) <= bound)

    return _until_kept(key, wanted, propose, jnp.full_like(b, jnp.nan))


def _until_kept(key: Array, wanted: Array, propose: Callable[[Array], Any], value: Array) -> Array:
    """The first proposal that is kept, in each row that is wanted."""

    def going_on(state: tuple[Array, Array, Array]) -> Array:
        round_, _, waiting = state
        return jnp.any(waiting) & (round_ < _ROUNDS)

    def step(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        round_, value, waiting = state
        proposed, kept = propose(jax.random.fold_in(key, round_))
        return round_ + 1, jnp.where(waiting & kept, proposed, value), waiting & ~kept

    start = (jnp.zeros((), jnp.int32), value, jnp.broadcast_to(wanted, jnp.shape(value)))
    return jax.lax.while_loop(going_on, step, start)[1]
