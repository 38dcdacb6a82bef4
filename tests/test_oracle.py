"""The dense oracle against what others computed, and against mathematics that needs no oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import records
from scipy import integrate, special, stats

LAPLACE = records.select("gaussian", "binomial", "poisson")
INFORMED = [name for name in LAPLACE if records.MODELS[name]["link"] in ("probit", "cloglog")]

# eta that every link accepts, and the mean there written with scipy's own functions
LINKS: dict[tuple[str, str], tuple[tuple[float, float], Callable[..., Any]]] = {
    ("binomial", "logit"): ((-2.5, 2.5), special.expit),
    ("binomial", "probit"): ((-2.5, 2.5), stats.norm.cdf),
    ("binomial", "cloglog"): ((-2.5, 1.5), stats.gumbel_l.cdf),
    ("binomial", "cauchit"): ((-2.5, 2.5), stats.cauchy.cdf),
    ("binomial", "log"): ((-2.5, -0.1), np.exp),
    ("poisson", "log"): ((-1.5, 1.5), np.exp),
    ("poisson", "sqrt"): ((0.3, 2.5), np.square),
    ("poisson", "identity"): ((0.3, 2.5), np.asarray),
    ("gaussian", "identity"): ((-2.5, 2.5), np.asarray),
    ("gaussian", "log"): ((-1.5, 1.5), np.exp),
}
TRIALS = 6.0
SIGMA = 0.7


def rows(family: str, link: str, n: int, rng: np.random.Generator):
    """A problem of n rows without random effects, and an eta for it."""
    low, high = LINKS[family, link][0]
    eta = rng.uniform(low, high, n)
    y = {
        "binomial": rng.integers(0, int(TRIALS) + 1, n).astype(float),
        "poisson": rng.integers(0, 6, n).astype(float),
        "gaussian": rng.normal(size=n),
    }[family]
    weights = rng.integers(1, 4, n).astype(float)
    problem = oracle.Problem(
        family, link, y, np.ones((n, 1)), [], trials=np.full(n, TRIALS), weights=weights
    )
    return problem, eta


def two_factors(rng: np.random.Generator, n: int = 60):
    """Slopes on one factor crossed with intercepts on another, and factors for both."""
    blocks = [
        oracle.Block(rng.integers(5, size=n), 5, np.stack([np.ones(n), rng.normal(size=n)])),
        oracle.Block(rng.integers(4, size=n), 4, np.ones((1, n))),
    ]
    Lambdas = [np.array([[0.8, 0.0], [-0.3, 0.5]]), np.array([[0.6]])]
    return blocks, Lambdas


# ----------------------------------------------------------------------------------------------
# Reference fits


@pytest.mark.parametrize("name", LAPLACE)
def test_reproduces_recorded_log_likelihood(name):
    model = records.MODELS[name]
    fit = records.arrays(model)
    found = oracle.laplace(fit.problem, fit.beta, fit.Lambdas, fit.sigma).log_likelihood
    # lme4's determinant is one inner step old: its numbers are good to a few 1e-6 only
    tolerance = 1e-9 if model["record"] == "glmmTMB" else 5e-6
    assert found == pytest.approx(model["logLik"], rel=0, abs=tolerance)


@pytest.mark.parametrize("name", LAPLACE)
def test_reproduces_glmmtmb_at_its_own_estimate(name):
    model = records.MODELS[name]
    fit = records.arrays(model, "glmmTMB")
    found = oracle.laplace(fit.problem, fit.beta, fit.Lambdas, fit.sigma).log_likelihood
    assert found == pytest.approx(model["engines"]["glmmTMB"]["logLik_raw"], rel=0, abs=1e-9)


@pytest.mark.parametrize("name", INFORMED)
def test_expected_information_reproduces_lme4(name):
    model = records.MODELS[name]
    fit = records.arrays(model, "lme4")
    recorded = model["engines"]["lme4"]["logLik_raw"]
    expected = oracle.laplace(fit.problem, fit.beta, fit.Lambdas, information="expected")
    observed = oracle.laplace(fit.problem, fit.beta, fit.Lambdas)
    assert expected.log_likelihood == pytest.approx(recorded, rel=0, abs=1e-6)
    assert abs(observed.log_likelihood - recorded) > 0.01
    checked = model["logLik_checks"]["at_lme4_laplace_observed"]
    assert observed.log_likelihood == pytest.approx(checked, rel=0, abs=1e-6)


@pytest.mark.parametrize("name", LAPLACE)
def test_reproduces_recorded_modes(name):
    model = records.MODELS[name]
    fit = records.arrays(model)
    found = oracle.laplace(fit.problem, fit.beta, fit.Lambdas, fit.sigma)
    assert found.eta[:10] == pytest.approx(model["predict_link_first10"], rel=0, abs=1e-8)
    modes = found.modes(fit.problem)
    for (group, table), u, Lambda, labels in zip(
        model["ranef"].items(), modes, fit.Lambdas, fit.labels, strict=True
    ):
        b = fit.sigma * Lambda @ u
        for level, recorded in table.items():
            own = b[:, labels.index(level)]
            assert own == pytest.approx(list(recorded.values()), rel=1e-7, abs=1e-7), group


# ----------------------------------------------------------------------------------------------
# Densities


@pytest.mark.parametrize(("family", "link"), LINKS)
def test_log_density_is_scipys(family, link, rng):
    problem, eta = rows(family, link, 200, rng)
    mu = LINKS[family, link][1](eta)
    expected = {
        "binomial": lambda: problem.weights * stats.binom.logpmf(problem.y, TRIALS, mu),
        "poisson": lambda: problem.weights * stats.poisson.logpmf(problem.y, mu),
        "gaussian": lambda: stats.norm.logpdf(problem.y, mu, SIGMA / np.sqrt(problem.weights)),
    }[family]()
    np.testing.assert_allclose(problem.density(eta, SIGMA).log_f, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("family", "link"), LINKS)
def test_derivatives_agree_with_differences(family, link, rng):
    problem, eta = rows(family, link, 200, rng)
    here = problem.density(eta, SIGMA)

    def shifted(field):
        return lambda h: getattr(problem.density(eta + h[0], SIGMA), field)

    score = oracle.jacobian_fd(shifted("log_f"), np.zeros(1), 0.02)[:, 0]
    observed = -oracle.jacobian_fd(shifted("score"), np.zeros(1), 0.02)[:, 0]
    np.testing.assert_allclose(here.score, score, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(here.observed, observed, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("family", "link"), LINKS)
def test_expected_information_is_the_mean_of_the_observed(family, link):
    low, high = LINKS[family, link][0]
    for eta in np.linspace(low, high, 5):
        mu = float(LINKS[family, link][1](eta))
        if family == "gaussian":
            nodes, mass = np.polynomial.hermite_e.hermegauss(5)
            y, mass = mu + SIGMA * nodes, mass / np.sqrt(2 * np.pi)
        else:
            y = np.arange(TRIALS + 1) if family == "binomial" else np.arange(80.0)
            binomial, poisson = stats.binom.pmf(y, TRIALS, mu), stats.poisson.pmf(y, mu)
            mass = binomial if family == "binomial" else poisson
        ones = np.ones((y.size, 1))
        problem = oracle.Problem(family, link, y, ones, [], trials=np.full(y.size, TRIALS))
        density = problem.density(np.full(y.size, eta), SIGMA)
        assert density.observed @ mass == pytest.approx(density.expected[0], rel=1e-9)


@pytest.mark.parametrize(
    ("family", "link", "eta"),
    [("binomial", "log", 0.1), ("poisson", "sqrt", -0.1), ("poisson", "identity", -0.1)],
)
def test_outside_the_domain_is_refused(family, link, eta):
    block = oracle.Block(np.array([0, 0]), 1, np.ones((1, 2)))
    problem = oracle.Problem(
        family, link, np.array([0.0, 1.0]), np.ones((2, 1)), [block], trials=np.full(2, 2.0)
    )
    with pytest.raises(ValueError, match="outside the domain"):
        oracle.laplace(problem, np.array([eta]), [np.eye(1)])


# ----------------------------------------------------------------------------------------------
# Likelihood


@pytest.mark.parametrize("weights_type", ["prior", "frequency"])
def test_gaussian_identity_is_the_multivariate_normal(weights_type, rng):
    blocks, Lambdas = two_factors(rng)
    n = blocks[0].levels.size
    X, beta = np.stack([np.ones(n), rng.normal(size=n)], axis=1), np.array([0.4, -1.1])
    y, offset = rng.normal(size=n), rng.normal(size=n)
    weights = rng.uniform(0.5, 2.0, n) if weights_type == "prior" else np.ones(n)
    problem = oracle.Problem(
        "gaussian", "identity", y, X, blocks, None, weights, offset, weights_type
    )
    covariance = np.diag(1 / weights)
    for block, Lambda in zip(blocks, Lambdas, strict=True):
        ZL = block.dense(Lambda)
        covariance = covariance + ZL @ ZL.T
    normal = stats.multivariate_normal(X @ beta + offset, SIGMA**2 * covariance)
    found = oracle.laplace(problem, beta, Lambdas, SIGMA)
    assert found.log_likelihood == pytest.approx(normal.logpdf(y), rel=1e-12)


def integrated(problem: oracle.Problem, beta: float, sd: float) -> float:
    """The exact log-likelihood of a model with one random intercept, level by level."""
    (block,) = problem.blocks
    total = 0.0
    for level in range(block.n_levels):
        mine = block.levels == level

        def log_joint(b: float, mine: np.ndarray = mine) -> float:
            density = problem.density(np.full(problem.y.size, beta + b))
            return density.log_f[mine].sum() + stats.norm.logpdf(b, scale=sd)

        top = max(log_joint(b) for b in np.linspace(-6 * sd, 6 * sd, 400))
        area, _ = integrate.quad(
            lambda b, top=top, log_joint=log_joint: np.exp(log_joint(b) - top),
            -9 * sd,
            9 * sd,
            points=np.linspace(-6 * sd, 6 * sd, 25),
            limit=400,
            epsabs=1e-11,
        )
        total += top + np.log(area)
    return total


@pytest.mark.parametrize(
    ("family", "link"), [("binomial", "logit"), ("binomial", "probit"), ("poisson", "log")]
)
def test_laplace_nears_the_integral_as_groups_grow(family, link, rng):
    """Within the error of the method, which falls like one over the size of a group."""
    errors = []
    for times in (1, 10, 40):
        block = oracle.Block(np.repeat(np.arange(3), 4), 3, np.ones((1, 12)))
        y = np.array([1, 2, 0, 1, 2, 2, 1, 2, 0, 1, 1, 0], dtype=float)
        weights = np.full(12, float(times))
        problem = oracle.Problem(
            family, link, y, np.ones((12, 1)), [block], np.full(12, 3.0), weights
        )
        found = oracle.laplace(problem, np.array([-0.3]), [np.array([[0.8]])]).log_likelihood
        errors.append(abs(found - integrated(problem, -0.3, 0.8)))
    assert errors[0] < 0.1
    assert errors[2] < errors[1] / 3 < 0.01


@pytest.mark.parametrize(("family", "link"), LINKS)
def test_modes_are_stationary_and_leverages_add_up(family, link, rng):
    problem, eta = rows(family, link, 60, rng)
    blocks, Lambdas = two_factors(rng)
    Lambdas = [0.1 * Lambda for Lambda in Lambdas]
    problem = oracle.Problem(
        family, link, problem.y, np.ones((60, 1)), blocks, problem.trials, problem.weights, eta
    )
    found = oracle.laplace(problem, np.zeros(1), Lambdas, SIGMA)
    A = problem.design(Lambdas, SIGMA)
    score = problem.density(found.eta, SIGMA).score
    np.testing.assert_allclose(found.u, A.T @ score, rtol=0, atol=1e-12)
    trace = found.u.size - np.trace(np.linalg.inv(found.H))
    assert found.W @ found.leverages == pytest.approx(trace, rel=1e-10)
    assert found.logdet == pytest.approx(np.log(np.linalg.eigvalsh(found.H)).sum(), rel=1e-10)


def test_without_variance_it_is_the_glm(rng):
    problem, eta = rows("poisson", "log", 60, rng)
    blocks, Lambdas = two_factors(rng)
    problem = oracle.Problem(
        "poisson", "log", problem.y, np.ones((60, 1)), blocks, None, problem.weights, eta
    )
    found = oracle.laplace(problem, np.zeros(1), [0 * Lambda for Lambda in Lambdas])
    glm = problem.weights @ stats.poisson.logpmf(problem.y, np.exp(eta))
    assert found.log_likelihood == pytest.approx(glm, rel=1e-13)
    assert not found.u.any()


@pytest.mark.parametrize(
    ("family", "weights_type"), [("gaussian", "frequency"), ("poisson", "prior")]
)
def test_whole_weights_are_copies_of_rows(family, weights_type, rng):
    blocks, Lambdas = two_factors(rng)
    y = rng.poisson(2.0, 60).astype(float)
    weights = rng.integers(0, 4, 60)
    X = np.ones((60, 1))
    heavy = oracle.Problem(
        family, "log", y, X, blocks, None, weights.astype(float), None, weights_type
    )
    copied = oracle.Problem(
        family,
        "log",
        np.repeat(y, weights),
        np.repeat(X, weights, axis=0),
        [
            oracle.Block(np.repeat(b.levels, weights), b.n_levels, np.repeat(b.Z, weights, axis=1))
            for b in blocks
        ],
    )
    small = [0.2 * Lambda for Lambda in Lambdas]
    a, b = (oracle.laplace(p, np.array([0.6]), small, SIGMA) for p in (heavy, copied))
    assert a.log_likelihood == pytest.approx(b.log_likelihood, rel=1e-12)


def test_rows_of_weight_zero_do_not_matter(rng):
    blocks, Lambdas = two_factors(rng)
    y, weights = rng.normal(size=60), rng.uniform(0.5, 2.0, 60)
    weights[::7] = 0.0
    X = np.stack([np.ones(60), rng.normal(size=60)], axis=1)
    problem = oracle.Problem("gaussian", "identity", y, X, blocks, None, weights)
    beta = np.array([0.2, 0.3])
    whole = oracle.laplace(problem, beta, Lambdas, SIGMA)
    without = oracle.laplace(oracle.without_weightless(problem), beta, Lambdas, SIGMA)
    assert whole.log_likelihood == pytest.approx(without.log_likelihood, rel=1e-13)
    np.testing.assert_allclose(whole.leverages[weights > 0], without.leverages, rtol=1e-12)


# ----------------------------------------------------------------------------------------------
# Finite differences and theta


def test_differences_are_exact_to_many_digits():
    x = np.array([0.4, -1.7, 30.0])

    def f(x):
        return 50 + np.exp(x[0]) * np.sin(x[1]) + np.log(x[2]) * x[0]

    e, s, c = np.exp(x[0]), np.sin(x[1]), np.cos(x[1])
    gradient = np.array([e * s + np.log(x[2]), e * c, x[0] / x[2]])
    hessian = np.array(
        [[e * s, e * c, 1 / x[2]], [e * c, -e * s, 0.0], [1 / x[2], 0.0, -x[0] / x[2] ** 2]]
    )
    np.testing.assert_allclose(oracle.gradient_fd(f, x), gradient, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(oracle.hessian_fd(f, x), hessian, rtol=1e-7, atol=1e-9)


def test_theta_fills_the_lower_triangle_by_columns():
    Lambda = oracle.lower_triangular(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), 3)
    np.testing.assert_array_equal(Lambda, [[1, 0, 0], [2, 4, 0], [3, 5, 6]])
