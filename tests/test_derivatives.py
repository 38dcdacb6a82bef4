"""Gradients and Hessians of the objectives against differences of the dense oracle.

The default run pairs every family and link with a layout and every layout with two families, but
for the families that take longest to compile; those and the full grid are marked slow. Every point
is checked away from the optimum and at theta = 0, where the gradient in theta vanishes and only the
curvature can be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import layouts
import numpy as np
import oracle
import pytest
from layouts import FAMILY_LINKS, LAYOUTS, Model, compiled
from threadpoolctl import threadpool_limits

from mixedlm_jax.families import FAMILIES
from mixedlm_jax.hessian import laplace_hessian
from mixedlm_jax.likelihood import joint_laplace, laplace, laplace_gradient
from mixedlm_jax.modes import JointModes
from mixedlm_jax.problem import Problem, zero_effects

GRADIENT, HESSIAN = 1e-6, 1e-5  # relative to the largest entry
# Links whose expected information differs from the observed one.
NOT_CANONICAL = [
    member
    for member in FAMILY_LINKS
    if member not in (("binomial", "logit"), ("poisson", "log"), ("gaussian", "identity"))
    and FAMILIES[member[0]].has_expected_information
]
# The first families meet every link, later ones their default link alone.
BY_DEFAULT = [
    (name, link)
    for at, (name, family) in enumerate(FAMILIES.items())
    for link in (family.links if at < 3 else family.links[:1])
]
# Their Hessians compile for up to half a minute. The default run holds the standard errors of their
# recorded fits to those of other engines, and test_families their derivatives by row.
LONGEST = ("nbinom1", "betabinomial", "tweedie")
WEIGHTS = ("prior", "none", "frequency")
pytestmark = pytest.mark.usefixtures("x64", "_one_thread")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def value_at(problem: Problem, flat: jax.Array) -> jax.Array:
    """-log L without the base measure, at (theta, beta, phi)."""
    return laplace(problem.split(flat), problem, zero_effects(problem))


@compiled
def explicit(problem: Problem, flat: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Value, and gradient and Hessian as they are written out."""
    params, start = problem.split(flat), zero_effects(problem)
    found = laplace_gradient(params, problem, start)
    return found.value, found.gradient.flat, laplace_hessian(params, problem, start)


@compiled
def generic(problem: Problem, flat: jax.Array) -> jax.Array:
    """The gradient that autodiff composes from the two primitives."""
    return jax.grad(value_at, argnums=1)(problem, flat)


@compiled
def generic_hessian(problem: Problem, flat: jax.Array) -> jax.Array:
    return jax.hessian(value_at, argnums=1)(problem, flat)


def near(found, expected, tolerance: float, what: str) -> None:
    """Agreement relative to the largest entry."""
    scale = np.max(np.abs(expected))
    np.testing.assert_allclose(
        np.asarray(found) / scale, expected / scale, rtol=0, atol=tolerance, err_msg=what
    )


def dense_objective(model: Model) -> Callable[[np.ndarray], float]:
    """-log L of the oracle, every constant in."""
    return lambda flat: -model.oracle(flat, model.problem.information).log_likelihood


def check(model: Model, *, also_generic: bool = True) -> None:
    """Gradient and Hessian away from the optimum and at theta = 0."""
    objective, q = dense_objective(model), model.layout.n_theta
    for scale in (1.0, 0.0):
        flat = model.flat
        flat[:q] *= scale
        value, slope, hessian = explicit(model.problem, jnp.asarray(flat))
        assert float(value) - model.problem.log_base == pytest.approx(objective(flat), rel=1e-12)
        gradient = oracle.gradient_fd(objective, flat)
        near(slope, gradient, GRADIENT, "gradient written out")
        if also_generic:
            near(generic(model.problem, jnp.asarray(flat)), gradient, GRADIENT, "jax.grad")
        if scale:
            assert np.max(np.abs(slope)) > 0.1, "this is too near to the optimum to show anything"
        else:
            np.testing.assert_allclose(slope[:q], np.zeros(q), atol=1e-11)
        # a wider step would see the flanks of the narrow peak that a log link has at theta = 0
        near(hessian, oracle.hessian_fd(objective, flat, step=0.015), HESSIAN, "Hessian")


def pairs() -> list[Any]:
    """Every family, every layout with two families; weights and information in turn."""
    chosen: list[Any] = []
    names, half = list(LAYOUTS), len(BY_DEFAULT) // 2
    count = max(len(names), len(BY_DEFAULT) - half)
    for i in range(count):
        for j in (i, i + half):
            member, name = BY_DEFAULT[j % len(BY_DEFAULT)], names[i % len(names)]
            at = len(chosen)
            expected = member in NOT_CANONICAL and at % 3 == 0
            information = "expected" if expected else "observed"
            chosen.append(((*member, name, information), WEIGHTS[at % 3]))
    return chosen


PAIRS = pairs()


def test_the_default_cases_pair_everything():
    cases = [case for case, _ in PAIRS]
    assert {case[:2] for case in cases} == set(BY_DEFAULT)
    assert {case[0] for case in cases} == set(FAMILIES)
    for name in LAYOUTS:
        assert len({case[0] for case in cases if case[2] == name}) >= 2, name
    assert {weights for _, weights in PAIRS} == set(WEIGHTS)
    expected = {case[2] for case in cases if case[3] == "expected"}
    assert len(expected) >= 3
    assert any("crossed" in name for name in expected)


@pytest.mark.parametrize(
    ("case", "weights"),
    [
        pytest.param(
            *pair,
            id="-".join(pair[0]),
            marks=pytest.mark.slow if pair[0][0] in LONGEST else [],
        )
        for pair in PAIRS
    ],
)
def test_gradient_and_hessian(case, weights, rng):
    family, link, name, information = case
    model = layouts.draw(
        family,
        link,
        LAYOUTS[name],
        rng,
        weights=weights,
        offset=weights != "none",
        information=information,
    )
    # once for each layout; compiling it takes as long as all the rest
    check(model, also_generic=PAIRS.index((case, weights)) in range(0, 16, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("family", "link", "information"),
    [(*member, "observed") for member in FAMILY_LINKS]
    + [(*member, "expected") for member in NOT_CANONICAL],
)
def test_gradient_and_hessian_everywhere(family, link, name, information, rng):
    weights = WEIGHTS[int(rng.integers(3))]
    model = layouts.draw(
        family, link, LAYOUTS[name], rng, weights=weights, offset=True, information=information
    )
    check(model, also_generic=False)


# ----------------------------------------------------------------------------------------------
# Derivatives of any order, by composition


@pytest.mark.parametrize(
    ("family", "link", "name"),
    [("poisson", "log", "slope"), ("binomial", "cloglog", "crossed")],
)
def test_hessian_by_autodiff_alone(family, link, name, rng):
    model = layouts.draw(family, link, LAYOUTS[name], rng, weights="prior")
    found = generic_hessian(model.problem, jnp.asarray(model.flat))
    near(found, oracle.hessian_fd(dense_objective(model), model.flat), HESSIAN, "jax.hessian")


@pytest.mark.parametrize("name", ["nested", "crossed"])
def test_derivative_of_the_hessian(name, rng):
    """Second derivatives of estimates are made of it."""
    model = layouts.draw("poisson", "log", LAYOUTS[name], rng)
    params, change = layouts.as_jax(model.params), rng.normal(size=len(model.problem.y))

    def hessian(size, problem):
        moved = problem.replace(offset=problem.offset + size * change)
        return laplace_hessian(params, moved, zero_effects(problem))

    @compiled
    def slope(size, problem):
        return jax.jvp(lambda size: hessian(size, problem), (size,), (1.0,))[1]

    at = compiled(hessian)
    h = 1e-4
    by_differences = np.asarray(at(h, model.problem) - at(-h, model.problem)) / (2.0 * h)
    near(slope(0.0, model.problem), by_differences, HESSIAN, "derivative of the Hessian")


@pytest.mark.parametrize("name", ["nested", "crossed"])
def test_hessian_of_a_function_of_the_likelihood(name, rng):
    """A curved function of the value needs the value's own derivative, not only its tangent's."""
    model = layouts.draw("binomial", "logit", LAYOUTS[name], rng)
    base = model.problem.log_base

    @compiled
    def curved(problem, flat):
        return jax.hessian(lambda point: (value_at(problem, point) - base) ** 2)(flat)

    def dense(flat):
        return dense_objective(model)(flat) ** 2

    found = curved(model.problem, jnp.asarray(model.flat))
    near(found, oracle.hessian_fd(dense, model.flat), HESSIAN, "Hessian of a square")


def test_the_value_beside_the_explicit_gradient_has_that_gradient(rng):
    model = layouts.draw("poisson", "log", LAYOUTS["crossed"], rng)

    @compiled
    def both(problem, flat):
        def value(point):
            found = laplace_gradient(problem.split(point), problem, zero_effects(problem))
            return found.value, found.gradient.flat

        return jax.jacfwd(value, has_aux=True)(flat)

    derivative, gradient = both(model.problem, jnp.asarray(model.flat))
    near(derivative, np.asarray(gradient), 1e-12, "derivative of the value")


# ----------------------------------------------------------------------------------------------
# Derivatives with respect to the data


def moved(model: Model, part: str, change: np.ndarray, size: float) -> Model:
    """The model with one of its arrays moved along a direction."""
    if part == "Z":
        first, *others = model.design.factors
        factors = (replace(first, Z=first.Z + size * change), *others)
        return model.with_design(factors=factors)
    return model.with_design(**{part: getattr(model.design, part) + size * change})


@pytest.mark.parametrize(
    ("family", "link", "weights"), [("poisson", "log", "prior"), ("gaussian", "log", "prior")]
)
def test_derivatives_with_respect_to_the_data(family, link, weights, rng):
    model = layouts.draw(
        family, link, LAYOUTS["slope crossed with intercept"], rng, weights=weights, offset=True
    )
    used = model.design.weights > 0
    shapes = {name: getattr(model.design, name).shape for name in ("X", "offset", "weights")}
    shapes["Z"] = model.design.factors[0].Z.shape
    directions = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    directions["weights"] = 0.3 * np.where(used, directions["weights"], 0.0)
    base = model.family.log_base_measure(model.design.y, model.design.trials)

    @compiled
    def slopes(problem, flat):
        def value(arrays):
            Z = (arrays["Z"], *problem.Z[1:])
            return value_at(problem.replace(**{**arrays, "Z": Z}), flat)

        own = {name: getattr(problem, name) for name in ("X", "offset", "weights")}
        return jax.grad(value)({**own, "Z": problem.Z[0]})

    found = slopes(model.problem, jnp.asarray(model.flat))
    for part, direction in directions.items():

        def along(size, part=part, direction=direction):
            there = moved(model, part, direction, float(size[0]))
            weights = np.where(used, there.design.weights, 0.0)
            times = used if family == "gaussian" else weights  # the objective leaves these out
            return dense_objective(there)(model.flat) + np.sum(times * base)

        expected = oracle.gradient_fd(along, np.zeros(1), step=0.01)
        assert abs(expected[0]) > 0.1
        near(np.sum(found[part] * direction), expected[0], GRADIENT, part)


# ----------------------------------------------------------------------------------------------
# nAGQ = 0


def dense_joint(model: Model, theta: np.ndarray, phi: np.ndarray) -> tuple[float, np.ndarray]:
    """-log L with beta at its joint mode with u, and that beta, from the oracle's parts.

    The fixed effects are random effects of an enormous standard deviation about beta.
    """
    far = 1e5
    sigma = float(np.exp(phi[0])) if model.family.name == "gaussian" else 1.0
    A, base = model.dense.design(model.lambdas(theta), sigma), model.dense.fixed(model.params.beta)
    wide = np.hstack([A, far * model.design.X])
    found = oracle.modes(model.dense, base, wide, sigma)
    u, beta = found[: A.shape[1]], far * found[A.shape[1] :]
    density = model.dense.density(base + wide @ found, sigma)
    weight = getattr(density, model.problem.information)
    logdet = np.linalg.slogdet(np.eye(len(u)) + A.T @ (weight[:, None] * A))[1]
    return -density.log_f.sum() + u @ u / 2 + logdet / 2, model.params.beta + beta


@pytest.mark.parametrize(
    ("family", "link", "name", "information"),
    [
        ("poisson", "log", "crossed", "observed"),
        ("binomial", "cloglog", "intercept", "expected"),
        ("gaussian", "log", "slope", "observed"),
    ],
)
def test_joint_objective(family, link, name, information, rng):
    model = layouts.draw(
        family, link, LAYOUTS[name], rng, weights="prior", offset=True, information=information
    )
    q = model.layout.n_theta
    start = JointModes(zero_effects(model.problem), jnp.asarray(model.params.beta))

    @compiled
    def derivatives(problem, x):
        def value(point):
            total, modes = joint_laplace(point[:q], point[q:], problem, start)
            return total, (total, modes.beta)

        forward, (total, beta) = jax.jacfwd(value, has_aux=True)(x)
        backward, _ = jax.grad(value, has_aux=True)(x)
        return total, beta, forward, backward

    def dense(x):
        return dense_joint(model, x[:q], x[q:])[0]

    for scale in (1.0, 0.0):
        x = np.concatenate([scale * model.params.theta, model.params.phi])
        total, beta, forward, backward = derivatives(model.problem, jnp.asarray(x))
        value, dense_beta = dense_joint(model, x[:q], x[q:])
        assert float(total) - model.problem.log_base == pytest.approx(value, rel=1e-10)
        np.testing.assert_allclose(beta, dense_beta, rtol=1e-8, atol=1e-8)
        if scale or len(x) > q:
            expected = oracle.gradient_fd(dense, x)
            near(forward, expected, GRADIENT, "forward mode")
            near(backward, expected, GRADIENT, "reverse mode")
        if not scale:
            np.testing.assert_allclose(forward[:q], np.zeros(q), atol=1e-10)


# ----------------------------------------------------------------------------------------------
# Many responses at once


@pytest.mark.parametrize(
    ("family", "link", "name"),
    [("binomial", "cauchit", "||"), ("poisson", "log", "crossed")],
)
def test_many_responses_at_once(family, link, name, rng):
    model = layouts.draw(family, link, LAYOUTS[name], rng)
    y = np.stack([rng.permutation(model.design.y) for _ in range(4)])
    y = np.minimum(y, model.design.trials) if model.family.takes_trials else y
    y = np.concatenate([y, np.zeros_like(y[:1])])  # one lane that takes another path

    def one(problem, response):
        found = laplace_gradient(
            problem.split(jnp.asarray(model.flat)),
            problem.replace(y=response),
            zero_effects(problem),
        )
        return found.value, found.gradient.flat, found.u

    alone = compiled(one)
    together = compiled(jax.vmap(one, in_axes=(None, 0)))(model.problem, y)
    for lane, response in enumerate(y):
        single = alone(model.problem, response)
        for a, b in zip(jax.tree.leaves(single), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(b[lane], a, rtol=1e-10, atol=1e-10)
