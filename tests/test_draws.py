"""The laws that samplers are made of, against SciPy's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mixedlm_jax.families import draws

N = 20_000
pytestmark = pytest.mark.usefixtures("x64")


def repeated(values):
    return jnp.asarray(np.repeat(np.array(values, float), N))


def agree(law, y):
    """Chi-squared of counts over cells between quantiles of their law."""
    cells = np.unique(law.ppf(np.linspace(0.02, 0.98, 30)))
    chances = np.diff(np.concatenate([[0.0], law.cdf(cells), [1.0]]))
    counts = np.bincount(np.searchsorted(cells, y), minlength=len(chances))
    kept = chances > 1e-6
    statistic = np.sum((counts - N * chances)[kept] ** 2 / (N * chances)[kept])
    assert stats.chi2.sf(statistic, max(np.sum(kept) - 1, 1)) > 1e-5


def test_poisson():
    means = [1e-3, 0.5, 29.9, 30.0, 31.0, 500.0, 1e12]
    y = jax.jit(draws.poisson)(jax.random.key(1), repeated(means))
    for mean, counts in zip(means, np.asarray(y).reshape(-1, N), strict=True):
        agree(stats.poisson(mean), counts)


def test_binomial():
    settings = [(1, 0.3), (10, 0.0), (10, 1.0), (60, 0.499), (61, 0.5), (1000, 0.97), (10**6, 0.2)]
    m, p = np.array(settings).T
    y = jax.jit(draws.binomial)(jax.random.key(2), repeated(m), repeated(p), repeated(1.0 - p))
    for (size, chance), counts in zip(settings, np.asarray(y).reshape(-1, N), strict=True):
        assert np.all((counts >= 0) & (counts <= size))
        agree(stats.binom(size, chance), counts)


def test_gamma():
    shapes = [1e-4, 0.3, 1.0, 2.5, 1e8]
    y = jax.jit(draws.log_of_gamma)(jax.random.key(3), repeated(shapes))
    for shape, logs in zip(shapes, np.asarray(y).reshape(-1, N), strict=True):
        # below -700 the variable itself is 0: log y = log(U) / shape to the last digit
        law = stats.loggamma(shape) if shape > 0.01 else stats.expon(scale=1 / shape)
        sign = 1.0 if shape > 0.01 else -1.0
        assert stats.kstest(sign * logs, law.cdf).pvalue > 1e-5


def test_what_has_no_distribution_is_nan():
    bad, one = jnp.array([jnp.nan, jnp.inf]), jnp.ones(2)
    key = jax.random.key(0)
    assert np.all(np.isnan(draws.poisson(key, bad)))
    assert np.all(np.isnan(draws.binomial(key, 9 * one, bad[:1] * one, bad[:1] * one)))
    assert np.all(np.isnan(draws.log_of_gamma(key, bad)))
