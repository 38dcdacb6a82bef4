"""Priors, penalised fits, the log-posterior, and other optimisers than our own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import fitted
import jax
import jax.numpy as jnp
import layouts
import numpy as np
import optax
import pandas as pd
import pytest
import records
from layouts import LAYOUTS, compiled
from scipy import integrate, optimize, stats

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf
from mixedlm_jax import priors
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.errors import ArgumentError, Code
from mixedlm_jax.priors import log_prior, standard_variances

make_posterior = records.script("make_posterior")
REFERENCE = Path(__file__).parent / "reference" / "posterior.json"
pytestmark = pytest.mark.usefixtures("x64")


def problem_of(nAGQ: int = 1) -> mf.Problem:
    return mf.make_problem(fitted.CBPP, fitted.cbpp(), "binomial", nAGQ)


# ----------------------------------------------------------------------------------------------
# Densities


def test_densities_of_fixed_effects():
    problem = problem_of()
    beta = np.array([-1.4, 0.3, -0.8, 2.0])
    params = mf.Params(np.array([0.6]), beta, np.zeros(0))

    def density(prior: Any) -> float:
        return float(log_prior(params, problem.replace(prior=prior)))

    normal = stats.norm.logpdf(beta[1:], 0.5, 2.5).sum()
    assert density(priors.Normal(2.5, 0.5)) == pytest.approx(normal, rel=1e-12)
    intercept = stats.norm.logpdf(beta[0], 0.0, 10.0)
    both = density(priors.Normal(2.5, 0.5, intercept=10.0))
    assert both == pytest.approx(normal + intercept, rel=1e-12)
    ridge = -1.5 * np.sum(beta[1:] ** 2)
    assert density(priors.Ridge(3.0)) == pytest.approx(ridge, rel=1e-12)
    own = density((priors.Ridge(3.0), lambda params: -jnp.abs(params.beta[0])))
    assert own == pytest.approx(ridge - 1.4, rel=1e-12)
    assert density(None) == 0.0


def test_densities_of_random_effects(rng):
    """Of standard deviations on the scale of eta: the Gaussian's theta is relative to sigma."""
    model = layouts.draw("gaussian", "identity", LAYOUTS["slope crossed with intercept"], rng)
    problem, params = model.problem, layouts.as_jax(model.params)
    sigma = float(np.exp(model.params.phi[0]))
    factors = [factor * sigma for factor in model.lambdas(model.params.theta)]
    sds = np.concatenate([np.sqrt(np.diag(factor @ factor.T)) for factor in factors])
    variances = compiled(standard_variances)(params, problem)
    np.testing.assert_allclose(variances, sds**2, rtol=1e-12)
    density = compiled(log_prior)
    expected = np.sum(np.log(2.0) + stats.t.logpdf(sds / 1.5, 4.0) - np.log(1.5))
    found = density(params, problem.replace(prior=priors.HalfT(1.5, 4.0)))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    determinants = sum(np.linalg.slogdet(factor @ factor.T)[1] for factor in factors)
    away = density(params, problem.replace(prior=priors.AwayFromZero(2.0)))
    assert float(away) == pytest.approx(determinants, rel=1e-12)
    # smooth where a standard deviation is 0
    still = params._replace(theta=jnp.zeros_like(params.theta))
    slope = compiled(jax.grad(log_prior))(still, problem.replace(prior=priors.HalfT()))
    np.testing.assert_allclose(slope.theta, 0.0)


@pytest.mark.parametrize(
    ("name", "k"), [("us", 1), ("us", 2), ("us", 3), ("diag", 2), ("homdiag", 3), ("cs", 2),
                    ("cs", 3), ("ar1", 3)],
)  # fmt: skip
def test_volumes_are_those_of_standard_deviations_and_correlations(name, k, rng):
    """Ratios between points, against the Jacobian by autodiff."""
    structure = STRUCTURES[name]

    def natural(theta):
        """Free standard deviations, and the free correlations."""
        sigma = structure.factor(theta, k) @ structure.factor(theta, k).T
        sd = jnp.sqrt(jnp.diagonal(sigma))
        rho = sigma / (sd[:, None] * sd[None, :])
        lower = rho[np.tril_indices(k, -1)]
        free = {"us": lower, "cs": lower[:1], "ar1": lower[:1]}.get(name, lower[:0])
        return jnp.concatenate([jnp.sqrt(structure.variances(theta, k)), free])

    @compiled
    @jax.vmap
    def measured(theta):
        jacobian = jax.jacfwd(natural)(theta)
        return jnp.linalg.slogdet(jacobian)[1] - structure.log_volume(theta, k)

    q = structure.n_theta(k)
    lower = structure.lower(k)
    points = rng.normal(size=(4, q))
    points = jnp.where(np.isfinite(lower)[None, :], jnp.exp(points), 0.5 * points)
    values = np.asarray(measured(points))
    np.testing.assert_allclose(values, values[0], atol=1e-9)


# ----------------------------------------------------------------------------------------------
# Penalised fits


def test_a_penalised_fit_maximises_the_sum():
    prior = (priors.Normal(0.5, intercept=1.0), priors.HalfT(0.3))
    model = mlm.glmer(fitted.CBPP, fitted.cbpp(), "binomial", prior=prior)

    def objective(x):
        z = np.array([[np.log(x[0]), *x[1:]]])
        likelihood = make_posterior.log_likelihood(z[:, 1:], np.exp(z[:, 0]), False)[0]
        densities = stats.norm.logpdf(x[1:], 0.0, [1.0, 0.5, 0.5, 0.5]).sum()
        return -likelihood - densities - stats.t.logpdf(x[0] / 0.3, 3.0), likelihood

    start = np.array([*model.theta, *model.beta])
    found = optimize.minimize(lambda x: objective(x)[0], start, method="Nelder-Mead",
                              options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 4000})  # fmt: skip
    np.testing.assert_allclose(start, found.x, atol=2e-5)
    assert float(model.logLik()) == pytest.approx(objective(start)[1], abs=1e-8)
    hessian = np.empty((5, 5))
    h = 1e-3
    for i, one in enumerate(h * np.eye(5)):
        for j, two in enumerate(h * np.eye(5)):
            corners = [objective(start + a * one + b * two)[0] * a * b
                       for a in (-1, 1) for b in (-1, 1)]  # fmt: skip
            hessian[i, j] = sum(corners) / (4 * h * h)
    errors = np.sqrt(np.diag(np.linalg.inv(hessian)))
    np.testing.assert_allclose(np.sqrt(np.diag(model.vcov(full=True))), errors, rtol=1e-4)
    assert "Penalised by a prior" in str(model.summary())
    # the functional way is the same, and the prior rides along with an update
    problem = problem_of().replace(prior=prior)
    solved = compiled(mf.solve)(problem, mf.init(problem))
    np.testing.assert_allclose(solved.params.flat, start, atol=2e-6)
    # what is maximised agrees to second order in the estimates, its parts to first
    penalised = float(solved.log_likelihood) + float(log_prior(solved.params, problem))
    assert model.fit.log_prior is not None
    total = float(model.logLik()) + model.fit.log_prior
    assert penalised == pytest.approx(total, abs=1e-9)
    assert float(solved.log_likelihood) == pytest.approx(float(model.logLik()), abs=1e-5)
    assert model.call.revised(". ~ . - period", None, {}).prior is model.call.prior


def test_priors_cure_separation_and_singular_fits():
    data = fitted.cbpp()
    data.loc[data["period"].astype(str) == "4", "incidence"] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = mlm.glmer(fitted.CBPP, data, "binomial", prior=priors.Normal(2.5))
    assert -6 < held.fixef()["period4"] < -2
    counts = pd.DataFrame({"y": [1, 2, 3, 4] * 10, "g": np.repeat(np.arange(10), 4)})
    assert fitted.singular().isSingular()
    away = mlm.glmer("y ~ 1 + (1 | g)", counts, "poisson", prior=priors.AwayFromZero())
    assert mlm.checkConv(away).ok
    assert not away.isSingular()


@pytest.mark.slow
def test_a_prior_of_other_parameters_does_not_hold_a_separated_one():
    data = fitted.cbpp()
    data.loc[data["period"].astype(str) == "4", "incidence"] = 0
    with pytest.warns(mlm.ConvergenceWarning, match="period4"):
        mlm.glmer(fitted.CBPP, data, "binomial", prior=priors.HalfT())


def test_estimates_move_with_the_numbers_of_a_prior():
    problem, start = problem_of(), mf.init(problem_of())

    @compiled
    def both(strength):
        return jax.jvp(
            lambda s: mf.solve(problem, start, prior=priors.Ridge(s)).params.flat,
            (strength,),
            (1.0,),
        )

    h = 1e-3
    expected = (both(2.0 + h)[0] - both(2.0 - h)[0]) / (2 * h)
    np.testing.assert_allclose(both(2.0)[1], expected, rtol=1e-5, atol=1e-8)


def test_what_is_no_prior_is_refused():
    with pytest.raises(ArgumentError, match=r"prior is 'ridge'; give priors.Normal"):
        mlm.glmer(fitted.CBPP, fitted.cbpp(), "binomial", prior="ridge")
    with pytest.raises(ArgumentError, match=r"nAGQ is 0.*knows no prior"):
        mlm.glmer(fitted.CBPP, fitted.cbpp(), "binomial", prior=priors.Ridge(1.0), nAGQ=0)
    with pytest.raises(ArgumentError, match="optimizer is 'adam'; give an optimiser of optax"):
        mf.optimize(problem_of(), "adam")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [optax.adam(0.1), optax.lbfgs()], ids=["adam", "lbfgs"])
def test_any_optimiser_of_optax(optimizer):
    found = mf.optimize(problem_of(), optimizer, steps=250)
    assert found.code == Code.CONVERGED
    model = fitted.recorded("cbpp_logit")
    np.testing.assert_allclose(found.params.flat, [*model.theta, *model.beta], atol=1e-3)


# ----------------------------------------------------------------------------------------------
# The posterior

FLAT = (priors.Normal(10.0, intercept=10.0), priors.HalfT(5.0, 3.0))


@pytest.mark.parametrize("nAGQ", [1, 31])
def test_the_posterior_is_that_of_the_reference_run(nAGQ, rng):
    posterior = mf.log_posterior(problem_of(nAGQ), FLAT)
    points = np.array([-0.5, -1.4, -1.0, -1.1, -1.6]) + 0.5 * rng.normal(size=(5, 5))
    expected = make_posterior.log_posterior(points, nAGQ > 1)
    positions = mf.Position(points[:, :1], points[:, 1:], np.zeros((5, 0)))
    found = np.asarray(compiled(jax.vmap(posterior))(positions))
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-8)


def test_the_joint_posterior_integrates_to_the_marginal_one():
    """One group with a single effect: the integral over u is one-dimensional."""
    data = pd.DataFrame({"y": [2, 0, 3, 1], "g": ["a", "a", "a", "b"]})
    problem = mf.make_problem("y ~ 1 + (1 | g)", data, "poisson", 60)
    marginal = mf.log_posterior(problem, FLAT)
    joint = mf.log_posterior(problem, FLAT, joint=True)

    def difference(z):
        at = mf.Position(np.array([z]), np.array([0.3]), np.zeros(0))
        density = compiled(lambda u: joint(at._replace(u=(u,))))
        # the groups are independent: the integral is a product
        zero = float(density(jnp.zeros((1, 2))))
        parts = []
        for g in range(2):
            unit = np.eye(2)[g : g + 1]
            ratio = integrate.quad(
                lambda u, unit=unit: float(jnp.exp(density(u * unit) - zero)), -10, 10
            )[0]
            parts.append(np.log(ratio))
        return zero + sum(parts) - float(marginal(at))

    assert difference(-0.5) == pytest.approx(difference(0.4), abs=1e-7)


def test_positions_there_and_back():
    data = mlm.load_sleepstudy()
    problem = mf.make_problem("Reaction ~ Days + (1 + Days | Subject)", data)
    posterior = mf.log_posterior(problem, joint=True)
    params = mf.Params(np.array([0.9, -0.2, 0.3]), np.array([250.0, 10.0]), np.array([3.0]))
    there = posterior.unconstrain(params)
    np.testing.assert_allclose(there.z, [np.log(0.9), -0.2, np.log(0.3)])
    assert [part.shape for part in there.u] == [(2, 18)]
    for a, b in zip(posterior.constrain(there), params, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    singular = posterior.unconstrain(params._replace(theta=np.zeros(3)))
    np.testing.assert_allclose(singular.z, [np.log(1e-3), 0.0, np.log(1e-3)])
    draws = jax.tree.map(lambda part: np.stack([np.stack([part] * 5)] * 2), there)
    named = posterior.named(draws)
    assert list(named) == list(problem.names.flat)
    assert named["sigma"].shape == (2, 5)
    np.testing.assert_allclose(named["sigma"], np.exp(3.0))


@pytest.mark.slow
@pytest.mark.parametrize("joint", [False, True])
def test_nuts_agrees_with_the_reference_run(joint):
    """Posterior means within a tenth of a posterior standard deviation."""
    blackjax = pytest.importorskip("blackjax")
    posterior = mf.log_posterior(problem_of(), FLAT, joint=joint)
    start = posterior.unconstrain(mf.init(problem_of()))

    def chain(key):
        warming, drawing = jax.random.split(key)
        window = blackjax.window_adaptation(blackjax.nuts, posterior)
        (state, settings), _ = window.run(warming, start, num_steps=500)
        step = blackjax.nuts(posterior, **settings).step

        def one(state, key):
            state, _ = step(key, state)
            return state, state.position

        return jax.lax.scan(one, state, jax.random.split(drawing, 2000))[1]

    keys = jax.random.split(jax.random.key(7), 4)
    named = posterior.named(jax.jit(jax.vmap(chain))(keys))
    record = json.loads(REFERENCE.read_text())["exact" if joint else "laplace"]
    for name, draws in named.items():
        assert abs(draws.mean() - record["mean"][name]) < 0.1 * record["sd"][name], name
        assert draws.std() == pytest.approx(record["sd"][name], rel=0.15), name


def test_the_reference_run_is_long_enough():
    for record in json.loads(REFERENCE.read_text()).values():
        for name, error in record["error"].items():
            assert error < 0.02 * record["sd"][name]
