"""The search, its verdict and its rescue: each can fail, and says so."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import records
from fitted import CBPP

import mixedlm_jax as mlm
from mixedlm_jax.buckets import padded
from mixedlm_jax.climb import climb, first_search
from mixedlm_jax.compiled import forget
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.design import build
from mixedlm_jax.errors import Code
from mixedlm_jax.families import Binomial, Gaussian, Poisson
from mixedlm_jax.fit import fit_problem, trimmed
from mixedlm_jax.formula import parse
from mixedlm_jax.objective import OBJECTIVES
from mixedlm_jax.optimize import begin
from mixedlm_jax.problem import make_problem, zero_effects
from mixedlm_jax.programs import evaluated, hessian_at, objective_value
from mixedlm_jax.search import looks_odd, second_start
from mixedlm_jax.start import first_params
from mixedlm_jax.store import VARIABLE
from mixedlm_jax.verdict import judge, separated_columns

BEST = records.MODELS["cbpp_logit"]["logLik"]
LAPLACE = OBJECTIVES[1]


def problem_of(formula, data, family, **options):
    design, _ = build(parse(formula), data, family)
    return make_problem(design, family, **options)


@pytest.fixture
def cbpp():
    return mlm.load_cbpp()


def test_fits_of_one_bucket_compile_nothing(cbpp, traces, monkeypatch):
    monkeypatch.setenv(VARIABLE, "off")
    forget()
    mlm.glmer(CBPP, cbpp, "binomial").fitted()
    assert traces, "the first fit of a shape is traced, or nothing is heard here"
    traces.clear()
    more = cbpp.assign(incidence=np.minimum(cbpp["incidence"] + 1, cbpp["size"]))
    columns = cbpp.assign(size=cbpp["size"] + 3, period=cbpp["period"].to_numpy()[::-1])
    shorter, longer = cbpp.iloc[:50], pd.concat([cbpp, cbpp.iloc[:5].assign(herd="another")])
    for other in (more, columns, shorter, longer):
        model = mlm.glmer(CBPP, other, Binomial())
        model.fitted()
        assert model.converged
    assert traces == []


def test_padding_changes_no_fit(cbpp):
    """Rows and levels that fill up a bucket leave estimates, errors and modes as they are."""
    design, _ = build(parse("incidence / size ~ period + (period | herd)"), cbpp, Binomial())
    with jax.enable_x64(True):
        bare = fit_problem(make_problem(design, Binomial()))
        whole = trimmed(fit_problem(make_problem(padded(design), Binomial())), design)
    assert bare.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(whole.beta, bare.beta, atol=1e-6)
    np.testing.assert_allclose(whole.vcov, bare.vcov, rtol=1e-4, atol=1e-7)
    assert len(whole.eta) == len(design.y)
    np.testing.assert_allclose(whole.eta, bare.eta, atol=1e-5)
    for own, other in zip(whole.b, bare.b, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["bfgs", "bobyqa"])
@pytest.mark.parametrize("maxfun", [5, 20, 60])
def test_no_search_spends_more_than_maxfun(cbpp, optimizer, maxfun):
    control = GlmerControl(optimizer=optimizer, maxfun=maxfun)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mlm.ConvergenceWarning)
        model = mlm.glmer(CBPP, cbpp, "binomial", control=control)
    # a derivative-free search that spent all is followed by one gradient, for the verdict
    assert model.optinfo["evaluations"] <= maxfun + (optimizer == "bobyqa")


def test_evaluation_limit(cbpp):
    with pytest.warns(mlm.ConvergenceWarning, match="limit on evaluations"):
        model = mlm.glmer(CBPP, cbpp, "binomial", control=mlm.GlmerControl(maxfun=3))
    verdict = mlm.checkConv(model)
    assert not verdict.ok
    assert not model.converged
    # the gain it predicts is the one that is still to be had
    missing = BEST - float(model.logLik())
    assert verdict.decrement == pytest.approx(missing, rel=0.3)
    assert model.optinfo["evaluations"] == 3


def test_separation_is_named(cbpp):
    cbpp.loc[cbpp["period"] == "4", "incidence"] = 0
    with pytest.warns(mlm.ConvergenceWarning, match="period4"):
        model = mlm.glmer(CBPP, cbpp, "binomial")
    verdict = mlm.checkConv(model)
    assert verdict.separated == ("period4",)
    assert not verdict.ok


@pytest.mark.parametrize(
    ("y", "x", "columns"),
    [
        ([0, 0, 0, 1, 1, 1], [-3, -2, -1, 1, 2, 3], (0, 1)),  # complete
        ([0, 0, 1, 0, 1, 1], [-3, -2, 0, 0, 2, 3], (0, 1)),  # quasi-complete: both values at 0
        ([0, 1, 0, 1, 0, 1], [-3, -2, -1, 1, 2, 3], ()),  # overlap
    ],
)
def test_separated_columns(y, x, columns, x64):
    x = np.array(x, float)
    data = pd.DataFrame({"y": y, "x": x, "g": [0, 1, 2, 0, 1, 2]})
    found = separated_columns(problem_of("y ~ x + (1 | g)", data, Binomial()))
    # along a separating direction the slope always moves; the intercept only if it helps
    assert set(found) <= set(columns)
    assert bool(found) == bool(columns)


def test_poisson_cell_of_zeros_is_separated(x64, rng):
    data = pd.DataFrame({"g": np.tile(np.arange(6), 10), "arm": np.repeat(["a", "b"], 30)})
    data["y"] = np.where(data["arm"] == "b", 0, rng.poisson(2.0, 60))
    assert separated_columns(problem_of("y ~ arm + (1 | g)", data, Poisson())) == (1,)


def test_perturbed_optimum_is_refused(cbpp, x64):
    problem = jax.device_put(problem_of(CBPP, cbpp, Binomial()))
    fit = fit_problem(problem)
    optimum = np.concatenate([fit.theta, fit.beta])
    for shift, accepted in ((0.0, True), (0.01, False)):
        x = jnp.asarray(optimum + shift * np.array([0, 1, 0, 0, 0]))
        at = evaluated(LAPLACE, problem, begin(x, fit.u, np.eye(5)))
        verdict = judge(
            np.asarray(at.gradient), hessian_at(LAPLACE, problem, at), boundary=np.zeros(5, bool)
        )
        assert verdict.ok is accepted
        loss = float(at.value) - float(problem.log_base) + fit.log_likelihood
        assert verdict.decrement == pytest.approx(loss, rel=0.01, abs=1e-9)


def test_verdicts_that_cannot_come_from_a_good_fit():
    inside = np.zeros(2, bool)
    saddle = judge(np.zeros(2), np.diag([1.0, -0.1]), boundary=inside)
    flat = judge(np.zeros(2), np.array([[1.0, 1.0], [1.0, 1.0 + 1e-12]]), boundary=inside)
    lost = judge(np.zeros(2), np.full((2, 2), np.nan), boundary=inside)
    assert [v.code for v in (saddle, flat, lost)] == [
        Code.INDEFINITE,
        Code.ILL_CONDITIONED,
        Code.NOT_FINITE,
    ]
    assert not any(v.ok for v in (saddle, flat, lost))
    # the same flat direction on the boundary of a random-effects term is no fault
    edge = judge(np.zeros(2), np.diag([1.0, 0.0]), boundary=np.array([False, True]))
    assert edge.ok
    assert edge.singular


@jax.custom_jvp
def _without_derivative(x):
    return x


@_without_derivative.defjvp
def _nan_derivative(primals, tangents):
    return primals[0], jnp.nan * tangents[0]


@dataclass(frozen=True)
class NanScore(Binomial):
    """A binomial family whose log-density is right and whose score is nan."""

    def log_density(self, y, eta, phi, trials, precision):
        return super().log_density(y, _without_derivative(eta), phi, trials, precision)


def test_a_family_with_a_nan_score_is_rescued(cbpp):
    model = mlm.glmer(CBPP, cbpp, NanScore())
    record = records.MODELS["cbpp_logit"]
    assert model.optinfo["optimizer"] in ("SciPy COBYQA", "NLopt BOBYQA")
    assert "gradient path failed" in model.optinfo["reason"]
    assert float(model.logLik()) == pytest.approx(record["logLik"], abs=1e-6)
    ours = np.sqrt(np.diag(model.vcov()))
    np.testing.assert_allclose(ours, list(record["se"].values()), rtol=1e-4)
    assert mlm.checkConv(model).ok


def test_derivative_free_on_request(cbpp):
    model = mlm.glmer(CBPP, cbpp, "binomial", control=mlm.GlmerControl(optimizer="bobyqa"))
    assert model.optinfo["optimizer"] in ("SciPy COBYQA", "NLopt BOBYQA")
    assert model.optinfo["reason"] == "asked for"
    assert float(model.logLik()) == pytest.approx(BEST, abs=1e-6)


def test_no_finite_likelihood_is_an_error(cbpp):
    @dataclass(frozen=True)
    class Hopeless(Binomial):
        def log_density(self, y, eta, phi, trials, precision):
            return eta * jnp.nan

    with pytest.raises(mlm.FitError, match="not finite at any point"):
        mlm.glmer(CBPP, cbpp, Hopeless())


@pytest.fixture
def no_variance():
    """Counts without any variation between groups beyond their own."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(np.arange(20), 10), "x": rng.normal(size=200)})
    return data.assign(y=rng.poisson(3.0, 200))


def test_singular_fit_is_ok_and_equals_the_model_without_the_effect(no_variance):
    with pytest.warns(mlm.SingularFitWarning):
        model = mlm.glmer("y ~ x + (1 | g)", no_variance, "poisson")
    verdict = mlm.checkConv(model)
    assert verdict.ok
    assert verdict.singular
    assert model.theta.tolist() == [0.0]
    # without the random effect this is a Poisson regression
    X = np.column_stack([np.ones(200), no_variance["x"]])
    beta = np.zeros(2)
    for _ in range(30):
        mu = np.exp(X @ beta)
        beta = beta + np.linalg.solve(X.T @ (mu[:, None] * X), X.T @ (no_variance["y"] - mu))
    se = np.sqrt(np.diag(np.linalg.inv(X.T @ (np.exp(X @ beta)[:, None] * X))))
    np.testing.assert_allclose(list(model.fixef().values()), beta, atol=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(model.vcov())), se, rtol=1e-6)
    assert np.isnan(model.vcov(full=True).to_numpy()[0, 0])


def test_correlation_on_the_boundary(no_variance):
    with pytest.warns(mlm.SingularFitWarning):
        model = mlm.glmer("y ~ x + (x | g)", no_variance, "poisson")
    assert mlm.checkConv(model).ok
    assert model.theta[2] == 0.0
    assert np.all(np.isfinite(np.diag(model.vcov())))
    # a covariate on another scale changes nothing but its own coefficient
    scaled = no_variance.assign(x=1e4 * no_variance["x"] + 3e4)
    with pytest.warns(mlm.SingularFitWarning):
        other = mlm.glmer("y ~ x + (x | g)", scaled, "poisson")
    assert float(other.logLik()) == pytest.approx(float(model.logLik()), abs=1e-8)


def test_start_values_lead_to_the_same_optimum(cbpp):
    model = mlm.glmer(CBPP, cbpp, "binomial", start={"theta": [3.0], "beta": [0, 0, 0, 0]})
    assert float(model.logLik()) == pytest.approx(BEST, abs=1e-6)
    for wrong in ({"theta": [1.0, 2.0]}, {"theta": "big"}, {"sigma": 1.0}):
        with pytest.raises(mlm.ArgumentError, match="start"):
            mlm.glmer(CBPP, cbpp, "binomial", start=wrong)


def test_start_at_the_optimum_stays_there():
    data = mlm.load_sleepstudy()
    model = mlm.glmer("Reaction ~ Days + (Days | Subject)", data)
    start = {"theta": model.theta, "beta": model.beta, "phi": [model.sigma]}
    again = mlm.glmer("Reaction ~ Days + (Days | Subject)", data, start=start)
    assert float(again.logLik()) == pytest.approx(float(model.logLik()), abs=1e-8)
    with pytest.raises(mlm.ArgumentError, match="sigma must be positive"):
        mlm.glmer("Reaction ~ Days + (Days | Subject)", data, start={"phi": -1.0})


def test_expected_information_is_lme4s(cbpp):
    """At lme4's estimate its Laplace log-likelihood has the Fisher weights in the determinant."""
    reached = 0.0
    for name in ("cbpp_probit", "cbpp_cloglog"):
        record = records.MODELS[name]
        family = Binomial(record["link"])
        theirs = record["engines"]["lme4"]
        with jax.enable_x64(True):
            problem = problem_of(CBPP, cbpp, family, information="expected")
            x = np.array([*theirs["theta"], *theirs["fixef"].values()])
            value = objective_value(LAPLACE, problem, x, zero_effects(problem))
            reached = float(problem.log_base - value)
        known = record["logLik_checks"]["at_lme4_laplace_fisher"]
        assert reached == pytest.approx(known, abs=1e-7)
    control = mlm.GlmerControl(information="expected")
    fitted = mlm.glmer(CBPP, cbpp, Binomial("cloglog"), control=control)
    assert float(fitted.logLik()) >= reached - 1e-6
    assert float(fitted.logLik()) == pytest.approx(reached, abs=1e-4)


def test_frequency_weights_repeat_rows():
    record = records.MODELS["salamanders_poisson"]
    counted = records.frame(records.MODELS["salamanders_weights"])
    model = mlm.glmer(record["formula"], counted, "poisson", weights="n", weights_type="frequency")
    assert float(model.logLik()) == pytest.approx(record["logLik"], abs=1e-5)


def test_gaussian_weights_two_meanings(rng):
    """Frequency weights repeat rows; prior weights divide the variance."""
    data = pd.DataFrame({"g": np.repeat(np.arange(12), 6), "x": rng.normal(size=72)})
    data["y"] = rng.normal(size=12)[data["g"]] + data["x"] + rng.normal(size=72)
    data["w"] = rng.integers(1, 4, 72)
    repeated = data.loc[data.index.repeat(data["w"])].reset_index(drop=True)
    formula = "y ~ x + (1 | g)"
    long = mlm.glmer(formula, repeated, "gaussian")
    frequency = mlm.glmer(formula, data, "gaussian", weights="w", weights_type="frequency")
    prior = mlm.glmer(formula, data, "gaussian", weights="w")
    assert float(frequency.logLik()) == pytest.approx(float(long.logLik()), abs=1e-7)
    assert frequency.sigma == pytest.approx(long.sigma, abs=1e-6)
    # with prior weights y is normal with covariance sigma^2 (Z Lambda Lambda' Z' + 1/w)
    same = data["g"].to_numpy()[:, None] == data["g"].to_numpy()[None, :]
    covariance = prior.sigma**2 * (prior.theta[0] ** 2 * same + np.diag(1.0 / data["w"]))
    residual = data["y"] - np.column_stack([np.ones(72), data["x"]]) @ list(prior.fixef().values())
    quadratic = residual @ np.linalg.solve(covariance, residual)
    exact = -0.5 * (np.linalg.slogdet(2 * np.pi * covariance)[1] + quadratic)
    assert float(prior.logLik()) == pytest.approx(exact, abs=1e-8)


def test_rows_of_weight_zero_change_nothing(cbpp):
    extra = pd.concat([cbpp, cbpp.iloc[:5]], ignore_index=True)
    weights = np.r_[np.ones(len(cbpp)), np.zeros(5)]
    model = mlm.glmer(CBPP, extra, "binomial", weights=weights)
    assert model.nobs == len(cbpp)
    assert float(model.logLik()) == pytest.approx(BEST, abs=1e-6)


def test_second_start_from_an_absurd_optimum(cbpp, x64):
    """An outcome at a standard deviation of 30 looks odd, and the second start finds better."""
    problem = jax.device_put(problem_of(CBPP, cbpp, Binomial()))
    first = first_params(problem, None)
    control = GlmerControl()
    good = climb(LAPLACE, problem, first_search(LAPLACE, problem, first), control, 100)
    assert not looks_odd(good)
    x = np.array(good.search.x)
    x[0] = 30.0
    there = evaluated(LAPLACE, problem, begin(jnp.asarray(x), good.search.aux, np.eye(5)))
    absurd = replace(good, search=there, factors=(np.array([[30.0]]),))
    assert looks_odd(absurd)
    better = second_start(LAPLACE, absurd, first, control)
    assert better.path[-1] == "second start"
    assert better.evaluations > absurd.evaluations
    assert float(better.search.value) == pytest.approx(float(good.search.value), abs=1e-8)
    # and what is already the best stays
    kept = second_start(LAPLACE, good, first, control)
    assert float(kept.search.value) == float(good.search.value)


def test_a_large_ratio_of_standard_deviations_is_not_odd_for_the_gaussian(rng):
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 8)})
    data["y"] = 100 * rng.normal(size=10)[data["g"]] + rng.normal(size=80)
    assert "second start" not in mlm.glmer("y ~ 1 + (1 | g)", data).optinfo["path"]


def test_large_offsets_and_scales(rng):
    """Equivariance: a response in other units gives the same model in those units."""
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 8), "x": rng.normal(size=80)})
    slopes = np.column_stack([np.ones(80), data["x"]]) * rng.normal(size=(10, 2))[data["g"]]
    data["y"] = slopes.sum(axis=1) + data["x"] + rng.normal(size=80)
    small = mlm.glmer("y ~ x + (x | g)", data, Gaussian())
    large = mlm.glmer("y ~ x + (x | g)", data.assign(y=1e4 * data["y"] + 5e6), Gaussian())
    assert large.sigma == pytest.approx(1e4 * small.sigma, rel=1e-6)
    np.testing.assert_allclose(large.theta, small.theta, rtol=1e-5, atol=1e-7)
    shift = 80 * np.log(1e4)
    assert float(large.logLik()) == pytest.approx(float(small.logLik()) - shift, abs=1e-6)


@pytest.mark.parametrize("nAGQ", [0, 1])
def test_boundary_of_every_searched_parameter(nAGQ):
    data = pd.DataFrame({"y": np.tile([0, 1, 1, 0], 30), "g": np.repeat(np.arange(30), 4)})
    data["x"] = np.random.default_rng(0).normal(size=120)
    with pytest.warns(mlm.SingularFitWarning):
        model = mlm.glmer("y ~ x + (1 | g)", data, "binomial", nAGQ=nAGQ)
    assert model.theta.tolist() == [0.0]
    assert np.all(np.isfinite(model.vcov()))


@pytest.mark.parametrize("link", ["logit", "probit", "cloglog", "cauchit"])
def test_separation_is_seen_through_every_link(cbpp, link):
    cbpp.loc[cbpp["period"] == "4", "incidence"] = 0
    with pytest.warns(mlm.ConvergenceWarning, match="period4"):
        model = mlm.glmer(CBPP, cbpp, Binomial(link))
    # what cannot be estimated must not look precise
    limits = model.confint().loc["period4"]
    assert limits.iloc[1] - limits.iloc[0] > 10 * abs(model.fixef()["period4"])


def test_separation_towards_all_successes(cbpp):
    cbpp.loc[cbpp["period"] == "4", "incidence"] = cbpp["size"]
    for nAGQ in (0, 1):
        with pytest.warns(mlm.ConvergenceWarning, match="period4"):
            mlm.glmer(CBPP, cbpp, Binomial("cloglog"), nAGQ=nAGQ)


def test_standard_errors_survive_scale_and_collinearity():
    """The square of a year beside the year: standard errors as those of the centred model."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame(
        {"g": np.repeat(np.arange(12), 12), "year": np.tile(2000 + np.arange(12), 12)}
    )
    data["y"] = rng.poisson(np.exp(1 + 0.3 * rng.normal(size=12)[data["g"]]))
    data["c"] = data["year"] - 2005
    raw = mlm.glmer("y ~ I(year^2) + year + (1 | g)", data, "poisson")
    centred = mlm.glmer("y ~ I(c^2) + c + (1 | g)", data, "poisson")
    assert float(raw.logLik()) == pytest.approx(float(centred.logLik()), abs=1e-8)
    assert mlm.checkConv(raw).ok
    # the leading coefficient is the same in both, and so is its standard error
    ours, theirs = (np.sqrt(np.diag(model.vcov()))[1] for model in (raw, centred))
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert raw.fixef()["I(year^2)"] == pytest.approx(centred.fixef()["I(c^2)"], abs=1e-6 * theirs)
    slope = 2 * 2005 * raw.fixef()["I(year^2)"] + raw.fixef()["year"]
    assert slope == pytest.approx(centred.fixef()["c"], abs=1e-5)
    for unit in (1e-12, 1e12):
        scaled = mlm.glmer("y ~ c + (1 | g)", data.assign(c=unit * data["c"]), "poisson")
        plain = mlm.glmer("y ~ c + (1 | g)", data, "poisson")
        se = np.sqrt(np.diag(scaled.vcov())) * np.array([1, unit])
        np.testing.assert_allclose(se, np.sqrt(np.diag(plain.vcov())), rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-3, 1e5])
def test_gaussian_log_link_does_not_depend_on_the_unit_of_y(unit):
    data = mlm.load_sleepstudy()
    formula, family = "Reaction ~ Days + (1 | Subject)", Gaussian("log")
    model = mlm.glmer(formula, data, family)
    other = mlm.glmer(formula, data.assign(Reaction=unit * data["Reaction"]), family)
    assert not other.isSingular()
    shift = len(data) * np.log(unit)
    assert float(other.logLik()) == pytest.approx(float(model.logLik()) - shift, abs=1e-6)
    assert other.sigma == pytest.approx(unit * model.sigma, rel=1e-5)
    assert other.theta[0] == pytest.approx(model.theta[0] / unit, rel=1e-4)
