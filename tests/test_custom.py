"""Families that users write: a log-density of one's own, or a variance function alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import fitted
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from fitted import CBPP
from scipy import integrate, special, stats

import mixedlm_jax as mlm
from mixedlm_jax import compiled
from mixedlm_jax.families import CustomFamily, QuasiFamily
from mixedlm_jax.families.base import elementwise_derivatives
from mixedlm_jax.families.quasi import FUNCTIONS, variance_function
from mixedlm_jax.inference import standard_errors

# ----------------------------------------------------------------------------------------------
# A log-density


def nbinom2(y, eta, phi):
    theta, mu = phi["theta"], jnp.exp(eta)
    constants = jax.lax.lgamma(y + theta) - jax.lax.lgamma(theta) - jax.lax.lgamma(y + 1.0)
    return constants + theta * jnp.log(theta / (theta + mu)) + y * jnp.log(mu / (theta + mu))


def spread(mu, phi):
    return mu + mu**2 / phi["theta"]


def gumbel(y, eta, phi):
    z = (y - eta) / phi["scale"]
    return -z - jnp.exp(-z) - jnp.log(phi["scale"])


def draw_gumbel(key, eta, phi):
    return eta + phi["scale"] * jax.random.gumbel(key, dtype=jnp.float64)


def poisson(y, eta, phi):
    return y * eta - jnp.exp(eta) - jax.lax.lgamma(y + 1.0)


@cache
def counts() -> tuple[mlm.GlmerResult, mlm.GlmerResult]:
    """A family that ships, and the same one written down."""
    data, formula = mlm.load_epil(), "y ~ lbase * trt + (1 | subject)"
    family = CustomFamily(nbinom2, link="log", params={"theta": "positive"}, variance=spread)
    return mlm.glmer_nb(formula, data), mlm.glmer(formula, data, family)


def test_a_family_that_ships_written_down_gives_the_same_model():
    shipped, ours = counts()
    assert ours.converged
    assert float(ours.logLik()) == pytest.approx(float(shipped.logLik()), abs=1e-8)
    np.testing.assert_allclose(ours.beta, shipped.beta, atol=1e-5)
    np.testing.assert_allclose(ours.theta, shipped.theta, rtol=1e-4)
    assert ours.dispersion["theta"] == pytest.approx(shipped.dispersion["theta"], rel=1e-4)
    for full in (False, True):
        np.testing.assert_allclose(ours.vcov(full), shipped.vcov(full), rtol=1e-3, atol=1e-6)
    for kind in ("deviance", "pearson", "response", "working"):
        np.testing.assert_allclose(ours.residuals(kind), shipped.residuals(kind), atol=1e-4)
    np.testing.assert_allclose(ours.augment()[".cooksd"], shipped.augment()[".cooksd"], atol=1e-4)
    assert np.all(np.isfinite(ours.residuals()))
    new = mlm.load_epil().iloc[:5]
    for kind in ("response", "link"):
        np.testing.assert_allclose(ours.predict(new, kind), shipped.predict(new, kind), rtol=1e-4)
    assert "Scaled residuals" in str(ours.summary())
    assert "Dispersion parameter for nbinom2: theta = " in str(ours.summary())


@cache
def maxima() -> tuple[pd.DataFrame, CustomFamily]:
    """Annual maxima of 40 stations, far from 0: location 500, scale 60."""
    family = CustomFamily(gumbel, params={"scale": "positive"}, sampler=draw_gumbel)
    rng = np.random.default_rng(3)
    g, x = np.repeat(np.arange(40), 12), rng.normal(size=480)
    eta = 500.0 + 30.0 * x + 50.0 * rng.normal(size=40)[g]
    with jax.enable_x64(True):
        one, phi = jnp.ones(480), (jnp.log(60.0),)
        y = np.asarray(family.sample(jax.random.key(1), jnp.asarray(eta), phi, one, one))
    return pd.DataFrame({"g": g, "x": x, "y": y}), family


def test_known_truth_is_found_from_far_away():
    data, family = maxima()
    model = mlm.glmer("y ~ x + (1 | g)", data, family)
    assert model.converged
    found = np.concatenate([model.theta, model.beta, model.fit.phi])
    se = standard_errors(model.vcov(full=True).to_numpy())
    assert np.all(np.abs(found - [50.0, 500.0, 30.0, 60.0]) < 3 * se)
    # the normalised density, summed at the modes by SciPy, is that of the engine
    eta = model.predict(type="link")
    rows = stats.gumbel_r.logpdf(data["y"], loc=eta, scale=model.dispersion["scale"])
    with jax.enable_x64(True):
        phi = jnp.log(jnp.asarray(model.fit.phi))
        one = jnp.ones(len(data))
        ours = family.log_density(jnp.asarray(data["y"].to_numpy()), eta, phi, one, one)
    np.testing.assert_allclose(ours, rows, rtol=1e-10)
    # deviance: a Gumbel density is largest over its location at y
    away = (data["y"] - eta) / model.dispersion["scale"]
    expected = np.sign(data["y"] - eta) * np.sqrt(2 * (away + np.exp(-away) - 1))
    np.testing.assert_allclose(model.residuals(), expected, atol=1e-6)
    quadrature = model.update(nAGQ=5)
    assert float(quadrature.logLik()) == pytest.approx(float(model.logLik()), abs=0.5)


def test_without_a_variance_what_needs_it_says_so_or_is_left_out():
    data, family = maxima()
    model = mlm.glmer("y ~ x + (1 | g)", data, family)
    with pytest.raises(mlm.ArgumentError, match="variance="):
        model.residuals("pearson")
    assert "Scaled residuals" not in str(model.summary())
    assert {".cooksd", ".wtres"}.isdisjoint(model.augment().columns)
    assert np.all(np.isfinite(model.augment()[".hat"]))


def test_without_a_sampler_simulation_says_so():
    family = CustomFamily(gumbel, params={"scale": "positive"})
    with pytest.raises(mlm.ArgumentError, match=r"from its density alone.*sampler="):
        family.sample(jax.random.key(0), jnp.zeros(3), jnp.zeros(1), jnp.ones(3), jnp.ones(3))


def test_quasi_likelihood_names_no_distribution_to_draw_from():
    one = jnp.ones(3)
    with pytest.raises(mlm.ArgumentError, match="no distribution to draw from"):
        QuasiFamily("mu").sample(jax.random.key(0), one, (), one, one)


def test_a_sampler_gives_one_number():
    family = CustomFamily(gumbel, params={"scale": "positive"}, sampler=lambda *_: jnp.zeros(2))
    with pytest.raises(mlm.ArgumentError, match=r"shape \(2,\) for one observation"):
        family.sample(jax.random.key(0), jnp.zeros(3), jnp.zeros(1), jnp.ones(3), jnp.ones(3))


@pytest.mark.parametrize(
    ("how", "low", "high"),
    [
        ("positive", 0.0, np.inf),
        ("unit", 0.0, 1.0),
        ("real", -np.inf, np.inf),
        ((-1.0, 3.0), -1.0, 3.0),
        ((2.0, np.inf), 2.0, np.inf),
    ],
)
@pytest.mark.usefixtures("x64")
def test_parameters_keep_to_their_range(how, low, high):
    family = CustomFamily(gumbel, params={"scale": how})
    coordinates = np.array([-3.0, 0.0, 2.5])
    natural = np.asarray(family.parameters["scale"].natural(jnp.asarray(coordinates)))
    assert np.all((natural > low) & (natural < high))
    assert np.all(np.diff(natural) > 0)
    np.testing.assert_allclose(family.unconstrained(natural[None, :])[0], coordinates, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_a_parameter_may_be_one_a_row_and_be_named_like_anything():
    family = CustomFamily(
        lambda y, eta, phi: -phi["link"] * (y - eta) ** 2 + phi["name"],
        params={"link": "positive", "name": "real"},
    )
    assert family.name == "custom"
    assert family.dispersion_names == ("link", "name")
    y, eta, one = jnp.arange(3.0), jnp.zeros(3), jnp.ones(3)
    rows = jnp.array([[0.1, 0.2, 0.3], [1.0, 2.0, 3.0]])
    found = family.log_density(y, eta, rows, one, one)
    np.testing.assert_allclose(found, -np.exp(rows[0]) * np.arange(3.0) ** 2 + rows[1])
    single = [family.log_density(y, eta, rows[:, j], one, one)[j] for j in range(3)]
    np.testing.assert_allclose(found, single, rtol=1e-14)


def test_deviance_at_parameters_of_which_one_differs_by_row():
    family = CustomFamily(
        lambda y, eta, phi: gumbel(y, eta, phi) + phi["shift"],
        params={"scale": "positive", "shift": "real"},
    )
    y, mu, scale = np.array([0.5, -1.0, 4.0]), np.array([1.0, 0.0, 2.0]), np.array([1.0, 2.0, 0.5])
    away = (y - mu) / scale
    found = family.unit_deviance(y, mu, np.ones(3), (scale, 0.7))
    np.testing.assert_allclose(found, 2 * (away + np.exp(-away) - 1), atol=1e-6)


def test_equal_by_function_and_never_kept_on_disk():
    ours = CustomFamily(nbinom2, link="log", params={"theta": "positive"})
    twin = CustomFamily(nbinom2, link="log", params={"theta": (0.0, np.inf)})
    assert ours == twin
    assert hash(ours) == hash(twin)
    assert ours != CustomFamily(nbinom2, link="log", params={"theta": "unit"})
    assert ours != CustomFamily(lambda *rest: nbinom2(*rest), "log", {"theta": "positive"})
    with pytest.raises(compiled._Unknown):
        compiled._describe(ours)
    with pytest.raises(compiled._Unknown):
        compiled._describe(QuasiFamily(jnp.exp))
    assert "mu*(1-mu)" in compiled._describe(QuasiFamily("mu*(1-mu)"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_density": "poisson"}, "log_density is 'poisson'"),
        ({"log_density": lambda y, eta: y}, "cannot be traced"),
        ({"log_density": lambda y, eta, phi: next(iter(()))}, "StopIteration: no message"),
        ({"log_density": lambda y, eta, phi: y if y > 0 else eta}, "jnp.where in place of if"),
        ({"log_density": lambda y, eta, phi: phi["k"] * y}, "KeyError"),
        ({"log_density": lambda y, eta, phi: jnp.ones(3)}, "returns one number"),
        ({"log_density": poisson, "params": {"k": "big"}}, "range of parameter k"),
        ({"log_density": poisson, "params": {"k": (1.0, 0.0)}}, "range of parameter k"),
        ({"log_density": poisson, "params": ["k"]}, "give names with ranges"),
        ({"log_density": poisson, "sampler": 3}, "sampler is 3"),
        ({"log_density": poisson, "variance": "mu"}, "variance is 'mu'"),
        ({"log_density": poisson, "link": "loog"}, "no link 'loog'"),
    ],
)
def test_what_is_no_family_is_refused(arguments, message):
    with pytest.raises(mlm.ArgumentError, match=message):
        CustomFamily(**arguments)


# ----------------------------------------------------------------------------------------------
# A variance function


@cache
def cattle() -> mlm.GlmerResult:
    family = QuasiFamily(variance_func="mu*(1-mu)", link="logit")
    return mlm.glmer(CBPP, fitted.cbpp(), family)


def test_quasi_binomial_is_binomial_with_pearsons_dispersion():
    plain, ours = fitted.recorded("cbpp_logit"), cattle()
    assert ours.converged
    np.testing.assert_allclose(ours.beta, plain.beta, atol=1e-6)
    np.testing.assert_allclose(ours.theta, plain.theta, atol=1e-6)
    np.testing.assert_allclose(ours.residuals(), plain.residuals(), atol=1e-6)
    np.testing.assert_allclose(ours.residuals("pearson"), plain.residuals("pearson"), atol=1e-6)
    taken = plain.augment()[".hat"].sum()
    phi = np.sum(plain.residuals("pearson") ** 2) / (plain.nobs - taken)
    assert ours.dispersion == {"phi": pytest.approx(phi, rel=1e-6)}
    assert ours.sigma == pytest.approx(np.sqrt(phi), rel=1e-6)
    ratio = np.array(standard_errors(ours.vcov(True).to_numpy()))
    ratio /= standard_errors(plain.vcov(True).to_numpy())
    np.testing.assert_allclose(ratio, [1.0, *[np.sqrt(phi)] * 4], rtol=1e-5)
    np.testing.assert_allclose(ours.predict(), plain.predict(), rtol=1e-6)


def test_a_quasi_family_has_no_likelihood_and_the_summary_says_what_it_has():
    model = cattle()
    for criterion in (model.logLik, model.AIC, model.BIC, model.extractAIC):
        with pytest.raises(mlm.ArgumentError, match="no distribution"):
            criterion()
    text = str(model.summary())
    assert "maximum quasi-likelihood" in text
    assert f"Dispersion parameter for quasi: phi = {model.dispersion['phi']:.4g}\n" in text
    assert "at\ndispersion 1" in text or "dispersion 1" in text
    assert "AIC" not in text
    assert "df.resid" in text
    assert "quasi" in str(model)
    assert "quasi-likelihood" in repr(model)
    assert list(model.glance()) == ["nobs", "sigma", "deviance", "df.residual"]
    assert model._repr_html_()
    assert model.deviance() == pytest.approx(fitted.recorded("cbpp_logit").deviance(), abs=1e-6)


def test_proportions_need_no_trials():
    data = fitted.cbpp()
    data["share"] = data["incidence"] / data["size"]
    model = mlm.glmer(
        CBPP.replace("incidence / size", "share"), data, cattle().family, weights="size"
    )
    np.testing.assert_allclose(model.beta, cattle().beta, atol=1e-6)
    assert model.dispersion["phi"] == pytest.approx(cattle().dispersion["phi"], rel=1e-6)


def test_quasi_poisson_is_poisson():
    data, formula = mlm.load_epil(), "y ~ lbase * trt + (1 | subject)"
    plain = mlm.glmer(formula, data, "poisson")
    ours = mlm.glmer(formula, data, QuasiFamily("mu"))
    assert ours.family.link.name == "log"
    np.testing.assert_allclose(ours.beta, plain.beta, atol=1e-6)
    np.testing.assert_allclose(ours.theta, plain.theta, atol=1e-6)
    check, again = mlm.check_overdispersion(plain), mlm.check_overdispersion(ours)
    assert ours.dispersion["phi"] == pytest.approx(check.ratio, rel=1e-6)
    assert again.ratio == pytest.approx(check.ratio, rel=1e-6)
    # what is too small in the one is scaled in the other
    assert "standard errors are too small: try families.NegativeBinomial()" in check.verdict
    assert "standard errors of the fixed effects are multiplied" in again.verdict


# variance, link, responses, trials, means; and the quasi-likelihood up to a function of y
LARGE = np.array([0.0, 1.0, 4.0, 250.0])
CLOSED: dict[str, tuple[Any, Any, np.ndarray]] = {
    "mu*(1-mu)": (
        "logit",
        lambda y, m, mu: special.xlogy(y, mu) + special.xlog1py(m - y, -mu),
        np.array([0.0, 1.0, 4.5, 6.0]),
    ),
    "mu": ("log", lambda y, m, mu: special.xlogy(y, mu) - mu, LARGE),
    "mu^2": ("log", lambda y, m, mu: -y / mu - np.log(mu), LARGE[1:]),
    "mu ** 3 ": ("1/mu^2", lambda y, m, mu: -y / (2 * mu**2) + 1 / mu, LARGE[1:]),
    "mu + mu^2/2": (
        "sqrt",
        lambda y, m, mu: y * np.log(mu / (mu + 2)) + 2 * np.log(2 / (mu + 2)),
        LARGE,
    ),
    "1": ("identity", lambda y, m, mu: -((y - mu) ** 2) / 2, LARGE - 30.0),
    "1 + mu^2": (
        "identity",
        lambda y, m, mu: y * np.arctan(mu) - np.log1p(mu**2) / 2,
        LARGE - 30.0,
    ),
}


@pytest.mark.parametrize("variance", CLOSED)
@pytest.mark.usefixtures("x64")
def test_quasi_likelihood_is_its_closed_form(variance):
    link, closed, some = CLOSED[variance]
    family = QuasiFamily(variance, link)
    m = 6.0 if family.takes_trials else 1.0
    eta = np.array([0.03, 0.4, 1.5, 2.8])
    eta, y = (part.ravel() for part in np.meshgrid(eta, some, indexing="ij"))
    trials, one = np.full(len(y), m), jnp.ones(len(y))

    def value(point):
        return family.log_density(jnp.asarray(y), point, jnp.zeros(0), trials, one)

    mu = np.asarray(family.link.inverse(jnp.asarray(eta)))
    against = np.asarray(family.link.inverse(jnp.full(len(y), 1.0)))
    ours = np.asarray(value(jnp.asarray(eta)) - value(jnp.full(len(y), 1.0)))
    expected = closed(y, m, mu) - closed(y, m, against)
    np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-8)
    # the score is (y - m mu) / V(mu) dmu/deta, the expected information m mu'^2 / V
    slope = np.asarray(family.link.derivative(jnp.asarray(eta)))
    score = jax.jvp(value, (jnp.asarray(eta),), (one,))[1]
    spread = family.variance(mu, np.zeros(0))
    np.testing.assert_allclose(score, (y - m * mu) / spread * slope, rtol=1e-9, atol=1e-9)
    information = family.expected_information(jnp.asarray(eta), jnp.zeros(0), trials, one)
    np.testing.assert_allclose(information, m * slope**2 / spread, rtol=1e-9)
    # the deviance by quadrature
    found = family.unit_deviance(y, mu, trials, np.zeros(0))
    for row in range(0, len(y), 3):
        ends = (mu[row], y[row] / m)
        by_hand = integrate.quad(
            lambda t, row=row: 2 * (y[row] - m * t) / family.variance(np.array(t), np.zeros(0)),
            *ends,
            limit=200,
        )[0]
        assert found[row] == pytest.approx(by_hand, rel=1e-6, abs=1e-8)


@pytest.mark.usefixtures("x64")
def test_quasi_likelihood_is_finite_far_out():
    for variance, y in (("mu*(1-mu)", 1.0), ("mu", 3.0), ("mu^2", 3.0), ("1", 3.0)):
        family = QuasiFamily(variance)
        eta = jnp.array([-300.0, -40.0, 0.0, 40.0, 300.0])

        def value(point, family=family, y=y):
            return family.log_density(jnp.full(5, y), point, jnp.zeros(0), 6.0, 1.0)

        for values in elementwise_derivatives(value, eta):
            assert np.all(np.isfinite(values)), (variance, values)


@pytest.mark.parametrize(
    "text",
    ["", "nu", "mu.real", "__import__('os')", "mu < 1", "mu[0]", "scale(mu)", "'mu'", "mu:mu",
     "lambda mu: mu", "mu; mu", "mu %in% mu", "bs(mu, df=3)", "C(mu)"],
)  # fmt: skip
def test_a_variance_outside_its_language_is_refused(text):
    with pytest.raises(mlm.ArgumentError, match="give arithmetic in mu"):
        QuasiFamily(text)


@pytest.mark.parametrize("wrong", [3, None, ["mu"]])
def test_a_variance_is_text_or_a_function(wrong):
    with pytest.raises(mlm.ArgumentError, match="variance_func is"):
        QuasiFamily(wrong)


def test_a_variance_that_is_not_positive_and_links_that_do_not_fit_are_refused():
    for text in ("mu - 5", "-mu", "0", "1/(1-mu)"):
        with pytest.raises(mlm.ArgumentError, match="is not positive"):
            QuasiFamily(text)
    with pytest.raises(mlm.ArgumentError, match="no link 'sqrt'"):
        QuasiFamily("mu*(1-mu)", "sqrt")
    with pytest.raises(mlm.ArgumentError, match="works elementwise"):
        QuasiFamily(jnp.sum)


@pytest.mark.usefixtures("x64")
def test_the_language_is_arithmetic():
    mu = jnp.array([0.2, 1.5])
    m = np.asarray(mu)
    for text, expected in (
        ("-mu^2 + 2*mu/4", -(m**2) + m / 2),
        ("mu**0.5 - I(1 - mu)^3", m**0.5 - (1 - m) ** 3),
        ("mu^-1", 1 / m),
        *((f"{name}(mu)", getattr(np, name)(m)) for name in FUNCTIONS if name != "I"),
    ):
        np.testing.assert_allclose(variance_function(text)(mu), expected, rtol=1e-14)


# ----------------------------------------------------------------------------------------------
# Is the family right?


@cache
def simulated() -> pd.DataFrame:
    rng = np.random.default_rng(11)
    g, x = np.repeat(np.arange(120), 8), rng.normal(size=960)
    mu = np.exp(0.7 + 0.4 * x + 0.6 * rng.normal(size=120)[g])
    return pd.DataFrame(
        {
            "g": g,
            "x": x,
            "poisson": rng.poisson(mu),
            "spread": rng.negative_binomial(2.0, 2.0 / (2.0 + mu)),
            "zeros": rng.poisson(mu) * (rng.uniform(size=960) > 0.25),
        }
    )


@cache
def of(response: str, family: str = "poisson") -> mlm.GlmerResult:
    return mlm.glmer(f"{response} ~ x + (1 | g)", simulated(), family)


def test_poisson_counts_are_neither_overdispersed_nor_inflated():
    model = of("poisson")
    check = mlm.check_overdispersion(model)
    # the statistic has standard deviation sqrt(2 df), a little more with small means
    assert abs(check.ratio - 1.0) < 3 * np.sqrt(2.0 / check.df)
    naive = check.statistic / (model.nobs - 2)
    assert naive < 0.93 < check.ratio
    assert check.ok
    assert check.statistic == pytest.approx(np.sum(model.residuals("pearson") ** 2))
    assert check.df == pytest.approx(model.nobs - model.augment()[".hat"].sum())
    assert check.p_value == pytest.approx(stats.chi2.sf(check.statistic, check.df))
    assert "no overdispersion detected" in str(check)
    zeros = mlm.check_zero_inflation(model)
    chances = np.exp(-model.fitted())
    assert zeros.observed == np.sum(simulated()["poisson"] == 0)
    assert zeros.expected == pytest.approx(chances.sum())
    sd = np.sqrt(np.sum(chances * (1 - chances)))
    assert zeros.z == pytest.approx((zeros.observed - zeros.expected) / sd)
    assert zeros.p_value == pytest.approx(stats.norm.sf(zeros.z))
    assert zeros.ok
    assert "no zero inflation detected" in repr(zeros)


def test_overdispersed_counts_are_flagged():
    check = mlm.check_overdispersion(of("spread"))
    assert not check.ok
    assert check.ratio > 1.5
    assert "overdispersed" in check.verdict
    assert "NegativeBinomial" in check.verdict


def test_zero_inflated_counts_are_flagged():
    check = mlm.check_zero_inflation(of("zeros"))
    assert not check.ok
    assert check.ratio > 1.2
    assert "zero-inflated" in check.verdict


def test_chances_of_zero_are_the_familys():
    model = of("spread", "nbinom2")
    check = mlm.check_zero_inflation(model)
    assert check.ok
    theta = model.dispersion["theta"]
    chances = stats.nbinom.pmf(0, theta, theta / (theta + model.fitted()))
    assert check.expected == pytest.approx(chances.sum())


def test_checks_that_would_say_nothing_are_refused():
    with pytest.raises(mlm.ArgumentError, match="estimates its dispersion"):
        mlm.check_overdispersion(of("spread", "nbinom2"))
    with pytest.raises(mlm.ArgumentError, match="not one of counts"):
        mlm.check_zero_inflation(fitted.recorded("cbpp_logit"))
    data = simulated().assign(y=(simulated()["poisson"] > 1).astype(float))
    binary = mlm.glmer("y ~ x + (1 | g)", data, "binomial")
    with pytest.raises(mlm.ArgumentError, match="0 and 1 cannot be overdispersed"):
        mlm.check_overdispersion(binary)
    for check in (mlm.check_overdispersion, mlm.check_zero_inflation):
        with pytest.raises(mlm.ArgumentError, match="a model that glmer returned"):
            check("model")  # type: ignore[arg-type]


def test_frequency_weights_count_rows():
    data = simulated().head(160)
    twice = pd.concat([data, data])
    repeated = mlm.glmer("poisson ~ x + (1 | g)", twice, "poisson")
    weighted = mlm.glmer(
        "poisson ~ x + (1 | g)", data.assign(w=2.0), "poisson", weights="w",
        weights_type="frequency",
    )  # fmt: skip
    for check in (mlm.check_overdispersion, mlm.check_zero_inflation):
        ours, theirs = check(weighted), check(repeated)
        assert ours.ratio == pytest.approx(theirs.ratio, rel=1e-5)
        assert ours.p_value == pytest.approx(theirs.p_value, rel=1e-4)
