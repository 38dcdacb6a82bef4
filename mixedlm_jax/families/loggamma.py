"""Differences of log-gamma functions that keep their digits, with cheap derivatives of any order.

Everything is written with Binet's function R, the remainder of Stirling's formula,

    lgamma(x) = (x - 1/2) log x - x + log(2 pi) / 2 + R(x),

in which the large terms of a density cancel on paper. R comes from its asymptotic series (DLMF
5.11.1), below x = 8 through the recurrence, to about 1e-14 absolute. Each function hands autodiff
its derivative in log x as another short formula: unrolled through the series, programs of fourth
derivatives would take minutes to compile.
"""

from __future__ import annotations

from functools import partial
from math import factorial, prod

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from mixedlm_jax.arrays import Array

HALF_LOG_2PI = 0.9189385332046727  # log(2 pi) / 2
_SHIFT = 8
# B_2m / (2m (2m - 1)), m = 1, 2, ...
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_HUGE_LOG = 300.0


def binet(x: Array, log_x: Array) -> Array:
    """R(x) for x = exp(log_x), elementwise, as a function of log_x.

    It behaves like -log(x) / 2 near 0 and like 1 / (12 x) far out; finite where x underflows.
    """
    return _binet(0, x, log_x)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _binet(order: int, x: Array, log_x: Array) -> Array:
    """x^k d^k R / dx^k, k = order."""
    k = order
    small = x < _SHIFT
    z = jnp.where(small, x + _SHIFT, x)
    inverse = 1.0 / z
    square = inverse * inverse
    # z^k times the k-th derivative of the series
    signed = (-1.0) ** k
    terms = [signed * c * prod(range(2 * m + 1, 2 * m + 1 + k)) for m, c in enumerate(_STIRLING)]
    series = jnp.full_like(inverse, terms[-1])
    for term in terms[-2::-1]:
        series = series * square + term
    series = series * inverse
    # lgamma(x) = lgamma(z) - log x - sum_j log(x + j), j = 1, ..., 7
    near, log_near = jnp.where(small, x, 1.0), jnp.where(small, log_x, 0.0)
    ratio = near * jnp.where(small, inverse, 1.0)
    if k == 0:
        product = near + 1.0
        for j in range(2, _SHIFT):
            product = product * (near + j)
        log_z = jnp.log(near + _SHIFT)
        shift = (near + (_SHIFT - 0.5)) * log_z - (near + 0.5) * log_near - jnp.log(product)
        return series + jnp.where(small, shift - _SHIFT, 0.0)
    powers = sum((near / (near + j)) ** k for j in range(1, _SHIFT)) + 0.5
    if k == 1:
        shift = near * (jnp.log(near + _SHIFT) - log_near) - 0.5 * ratio - powers
    else:
        lower, own = factorial(k - 2), factorial(k - 1)
        stirling = near * (ratio ** (k - 1) - 1.0) * lower + 0.5 * own * ratio**k
        shift = signed * (stirling + own * powers)
    return series * ratio**k + jnp.where(small, shift, 0.0)


@_binet.defjvp
def _binet_jvp(order, primals, tangents):
    value = _binet(order, *primals)
    slope = order * value + _binet(order + 1, *primals)
    return value, slope * tangents[1]


def log_gamma(x: Array, log_x: Array) -> Array:
    """lgamma(x) for x = exp(log_x), elementwise."""
    return (x - 0.5) * log_x - x + HALF_LOG_2PI + binet(x, log_x)


def log_rising(y: Array, log_r: Array) -> Array:
    """lgamma(y + r) - lgamma(r) - y log r for y >= 0 and r = exp(log_r), elementwise.

    For a count y it is sum_{k < y} log(1 + k / r): about y (y - 1) / (2 r) for large r, which
    keeps its digits, and -(y - 1) log r for small r. A function of log_r and y for autodiff.
    """
    # beyond exp(300) it is 0 to the last digit, and r^2 would overflow
    log_r = jnp.broadcast_to(jnp.minimum(log_r, _HUGE_LOG), jnp.shape(y))
    r = jnp.exp(log_r)
    # at y = 0 it is 0, and its slope in y is not, whose derivatives have powers of 1 / r
    inside = (y > 0) | ((y == 0) & (r > jnp.finfo(log_r.dtype).tiny ** 0.2))
    y = jnp.where(inside, y, 1.0)
    total = y + r
    growth, excess = _log_ratio(y, log_r), _excess(y, log_r)
    remainders = binet(total, jnp.log(total)) - binet(r, log_r)
    return jnp.where(inside, excess + (y - 0.5) * growth + remainders, 0.0)


@jax.custom_jvp
def _log_ratio(y: Array, log_r: Array) -> Array:
    """log(1 + y / r)."""
    small, ratio, far = _split(y, log_r)
    return jnp.where(small, jnp.log1p(ratio), far)


@partial(_log_ratio.defjvp, symbolic_zeros=True)
def _log_ratio_jvp(primals, tangents):
    y, log_r = primals
    total = y + jnp.exp(log_r)
    return _log_ratio(y, log_r), _along(tangents, 1.0 / total, -y / total)


@jax.custom_jvp
def _excess(y: Array, log_r: Array) -> Array:
    """r log(1 + y / r) - y."""
    small, ratio, far = _split(y, log_r)
    r = jnp.exp(log_r)
    # log(1 + x) - x for x <= 1/4, from the series of 2 artanh(s), s = x / (2 + x)
    s = ratio / (2.0 + ratio)
    square = s * s
    series = jnp.full_like(s, 1.0 / 19.0)
    for k in range(17, 1, -2):
        series = series * square + 1.0 / k
    near = r * (2.0 * s * square * series - ratio * s)
    return jnp.where(small, near, r * far - y)


@partial(_excess.defjvp, symbolic_zeros=True)
def _excess_jvp(primals, tangents):
    y, log_r = primals
    value, r = _excess(y, log_r), jnp.exp(log_r)
    part = y / (y + r)
    # the same twice: each form cancels where the other one is used
    slope = jnp.where(y < 0.25 * r, value + y * part, r * (_log_ratio(y, log_r) - part))
    return value, _along(tangents, -part, slope)


def _along(tangents: tuple, *slopes: Array) -> Array:
    """Slopes times tangents; y is hardly ever differentiated by, and then costs nothing."""
    pairs = zip(slopes, tangents, strict=True)
    parts = [slope * step for slope, step in pairs if not isinstance(step, SymbolicZero)]
    return sum(parts[1:], parts[0]) if parts else jnp.zeros_like(slopes[0])


def _split(y: Array, log_r: Array) -> tuple[Array, Array, Array]:
    """Where y / r is small, y / r there, and log(1 + y / r) elsewhere."""
    r = jnp.exp(log_r)
    small = y < 0.25 * r
    ratio = jnp.where(small, y, 0.0) / jnp.where(small, r, 1.0)
    return small, ratio, jnp.log(y + r) - log_r


@jax.custom_jvp
def log_choose(n: Array, k: Array) -> Array:
    """log of n over k, elementwise, with derivatives in both as continuous variables.

    All of single trials are 0, and known without a gamma function.
    """
    single = jnp.all((n <= 1.0) & ((k == 0.0) | (k == n)))
    return jax.lax.cond(single, lambda: jnp.zeros_like(n - k), lambda: _log_choose(n, k))


@log_choose.defjvp
def _log_choose_jvp(primals, tangents):
    return log_choose(*primals), jax.jvp(_log_choose, primals, tangents)[1]


def _log_choose(n: Array, k: Array) -> Array:
    lgamma = jax.lax.lgamma
    return lgamma(n + 1.0) - lgamma(k + 1.0) - lgamma(n - k + 1.0)
