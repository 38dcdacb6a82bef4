"""The outer optimisers on functions whose minimum is known."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.optimize import (
    OPTIMIZERS,
    advance,
    advance_while,
    begin,
    bfgs,
    central_differences,
    check_optimizer,
    derivative_free,
)

CURVATURE = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 100.0]])
CENTRE = np.array([1.0, -2.0, 0.5])
pytestmark = pytest.mark.usefixtures("x64")


def quadratic(x):
    away = x - CENTRE
    return 7.0 + 0.5 * away @ CURVATURE @ away


def rosenbrock(x):
    return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2


def walled(x):
    """Minimum 1 at (1, 1); infinite, with finite derivatives, where x[0] <= 0."""
    valid = x[0] > 0
    inside = jnp.where(valid, x[0], 1.0)
    return jnp.where(valid, inside - jnp.log(inside) + (x[1] - 1.0) ** 2, jnp.inf)


def counted(function):
    """Value and gradient; aux counts the evaluations that were accepted."""

    def evaluate(x, aux):
        value, gradient = jax.value_and_grad(function)(x)
        return value, gradient, aux + 1

    return evaluate


def steps_of(function):
    """A compiled `advance`."""
    return jax.jit(lambda search: advance(counted(function), search))


def one_at_a_time(step):
    """A compiled `advance` as `bfgs` wants it."""
    return lambda search, tol, most: (step(search), 1)


def minimise(function, start, inverse=None, *, tol=1e-12, maxfun=200):
    start = np.asarray(start, float)
    inverse = np.eye(len(start)) if inverse is None else inverse
    search = begin(jnp.asarray(start), jnp.asarray(0), jnp.asarray(inverse))
    return bfgs(one_at_a_time(steps_of(function)), search, tol=tol, maxfun=maxfun)


def test_the_right_metric_needs_one_step():
    search, evaluations, why = minimise(quadratic, np.zeros(3), np.linalg.inv(CURVATURE))
    assert why == "converged"
    assert evaluations == 2  # the start, and the minimum
    np.testing.assert_allclose(search.x, CENTRE, rtol=1e-12)
    assert float(search.value) == pytest.approx(7.0, rel=1e-14)
    np.testing.assert_allclose(search.gradient, np.zeros(3), atol=1e-12)
    assert int(search.aux) == 2


def test_the_metric_is_learnt_on_a_quadratic():
    search, evaluations, why = minimise(quadratic, np.zeros(3))
    assert why == "converged"
    assert evaluations < 40
    np.testing.assert_allclose(search.x, CENTRE, atol=1e-5)
    # the gain it stops on is the one that is left
    left = float(search.value) - 7.0
    assert left == pytest.approx(0.0, abs=1e-11)
    np.testing.assert_allclose(search.inverse, np.transpose(search.inverse), rtol=1e-12)
    assert np.all(np.linalg.eigvalsh(search.inverse) > 0)


def test_the_predicted_gain_is_half_g_b_g():
    step = steps_of(quadratic)
    inverse = np.diag([0.1, 0.2, 0.01])
    search = step(begin(jnp.zeros(3), jnp.asarray(0), jnp.asarray(inverse)))
    gradient = CURVATURE @ -CENTRE
    np.testing.assert_allclose(search.x, np.zeros(3))
    np.testing.assert_allclose(search.gradient, gradient, rtol=1e-14)
    assert float(search.gain) == pytest.approx(0.5 * gradient @ inverse @ gradient, rel=1e-13)


def test_rosenbrocks_valley():
    search, evaluations, why = minimise(rosenbrock, [-1.2, 1.0])
    assert why == "converged"
    assert evaluations < 80
    np.testing.assert_allclose(search.x, [1.0, 1.0], atol=1e-5)


def test_no_accepted_step_goes_up():
    step = steps_of(rosenbrock)
    search = step(begin(jnp.array([-1.2, 1.0]), jnp.asarray(0), jnp.eye(2)))
    for _ in range(40):
        after = step(search)
        rejected = np.array_equal(after.x, search.x)
        assert float(after.value) <= float(search.value) * (1 + 1e-10)
        if rejected:
            assert 0.1 * search.length <= after.length <= 0.5 * search.length
            assert after.aux == search.aux
            assert after.value == search.value
            np.testing.assert_array_equal(after.inverse, search.inverse)
        else:
            assert after.length == 1.0
            assert after.aux == search.aux + 1
        search = after


def test_steps_into_an_infinite_region_are_shortened():
    # from x[0] = 3 the first step lands far beyond the wall
    search, _, why = minimise(walled, [3.0, -1.0], np.diag([50.0, 0.5]))
    assert why == "converged"
    np.testing.assert_allclose(search.x, [1.0, 1.0], atol=1e-5)
    assert float(search.value) == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize(("times", "length"), [(4.0, 0.25), (2.5, 0.4), (40.0, 0.1)])
def test_a_step_too_long_is_shortened_by_a_parabola(times, length):
    # the whole step overshoots the minimum so many times; a tenth at least is kept
    step = steps_of(lambda x: 0.5 * x @ x)
    search = step(begin(jnp.ones(1), jnp.asarray(0), jnp.full((1, 1), times)))
    search = step(search)
    np.testing.assert_array_equal(search.x, [1.0])
    assert float(search.length) == pytest.approx(length, rel=1e-12)
    landed = float(step(search).x[0])
    assert landed == pytest.approx(0.0 if times * length == 1.0 else 1.0, abs=1e-12)


@pytest.mark.parametrize("broken", [jnp.inf, -jnp.inf, jnp.nan])
def test_a_start_that_is_not_finite_is_not_called_converged(broken):
    def evaluate(x, aux):
        return jnp.asarray(broken), x, aux

    step = jax.jit(lambda search: advance(evaluate, search))
    search, evaluations, why = bfgs(
        one_at_a_time(step), begin(jnp.ones(2), jnp.asarray(0), jnp.eye(2)), tol=1e-8, maxfun=50
    )
    assert (why, evaluations) == ("not finite", 1)
    np.testing.assert_array_equal(search.x, [1.0, 1.0])


def test_a_gradient_that_is_not_finite_counts_as_a_rejected_step():
    def evaluate(x, aux):
        return 0.5 * x @ x, jnp.where(jnp.max(jnp.abs(x)) < 0.9, jnp.nan, x), aux + 1

    step = jax.jit(lambda search: advance(evaluate, search))
    search, _, why = bfgs(
        one_at_a_time(step), begin(jnp.ones(2), jnp.asarray(0), jnp.eye(2)), tol=1e-8, maxfun=200
    )
    assert why in ("stalled", "limit")
    assert np.all(np.isfinite(search.gradient))
    assert np.all(np.isfinite(search.inverse))
    assert np.all(np.asarray(search.x) >= 0.9)


def test_a_gradient_that_points_uphill_stalls():
    def evaluate(x, aux):
        return 0.5 * x @ x, -x, aux

    step = jax.jit(lambda search: advance(evaluate, search))
    search, _, why = bfgs(
        one_at_a_time(step), begin(jnp.ones(2), jnp.asarray(0), jnp.eye(2)), tol=1e-8, maxfun=200
    )
    assert why == "stalled"
    # what rounding allows a step to go up
    np.testing.assert_allclose(search.x, [1.0, 1.0], atol=1e-8)


@pytest.mark.parametrize("maxfun", [1, 3, 7])
def test_the_limit_is_kept(maxfun):
    seen = []
    step = steps_of(rosenbrock)

    def counting(search, tol, most):
        seen.append(most)
        return step(search), 1

    start = begin(jnp.array([-1.2, 1.0]), jnp.asarray(0), jnp.eye(2))
    search, evaluations, why = bfgs(counting, start, tol=1e-12, maxfun=maxfun)
    assert why == "limit"
    assert seen == list(range(maxfun, 0, -1))
    assert evaluations == maxfun
    assert np.isfinite(search.value)


@pytest.mark.parametrize(("tol", "most"), [(1e-12, 200), (1e-3, 200), (0.0, 5), (1e9, 200)])
def test_steps_in_one_program_are_the_steps_one_by_one(tol, most):
    start = begin(jnp.array([-1.2, 1.0]), jnp.asarray(0), jnp.eye(2))
    program = jax.jit(lambda s, t, m: advance_while(counted(rosenbrock), s, t, m))
    together, spent = program(start, tol, most)
    single, evaluations, _ = bfgs(one_at_a_time(steps_of(rosenbrock)), start, tol=tol, maxfun=most)
    assert int(spent) == evaluations
    for one, other in zip(together, single, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("broken", [jnp.inf, jnp.nan])
def test_steps_in_one_program_end_where_nothing_is_finite(broken):
    def evaluate(x, aux):
        return jnp.asarray(broken), x, aux

    start = begin(jnp.ones(2), jnp.asarray(0), jnp.eye(2))
    assert int(advance_while(evaluate, start, 1e-8, 50)[1]) == 1


def test_lanes_in_lockstep_are_single_searches():
    starts = jnp.array([[-1.2, 1.0], [0.5, 2.0], [1.0, 1.0]])
    step = jax.jit(steps_of(rosenbrock))
    lanes = jax.jit(jax.vmap(step))
    many = jax.vmap(lambda x: begin(x, jnp.asarray(0), jnp.eye(2)))(starts)
    single = [begin(x, jnp.asarray(0), jnp.eye(2)) for x in starts]
    for _ in range(15):
        many = lanes(many)
        single = [step(search) for search in single]
    for lane, search in enumerate(single):
        np.testing.assert_allclose(many.x[lane], search.x, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(many.value[lane], search.value, rtol=1e-9, atol=1e-12)


# ----------------------------------------------------------------------------------------------
# Without derivatives


def test_derivative_free_search_finds_a_quadratics_minimum():
    calls = []

    def function(x):
        calls.append(x)
        return quadratic(x)

    scale = np.linalg.cholesky(np.linalg.inv(CURVATURE))
    found = derivative_free(function, np.zeros(3), scale, maxfun=500)
    np.testing.assert_allclose(found.x, CENTRE, atol=1e-5)
    assert found.value == quadratic(found.x)
    assert found.evaluations == len(calls) <= 500
    installed = importlib.util.find_spec("nlopt") is not None
    assert found.method == ("NLopt BOBYQA" if installed else "SciPy COBYQA")


@pytest.mark.parametrize("outside", [np.inf, np.nan])
def test_derivative_free_search_survives_values_that_are_not_finite(outside):
    def function(x):
        return float(walled(x)) if x[0] > 0 else outside

    found = derivative_free(function, np.array([1.8, 0.0]), np.eye(2), maxfun=300)
    np.testing.assert_allclose(found.x, [1.0, 1.0], atol=1e-3)
    assert np.isfinite(found.value)


def test_derivative_free_search_keeps_its_limit_and_its_best_point():
    calls = []

    def function(x):
        calls.append(rosenbrock(x))
        return calls[-1]

    found = derivative_free(function, np.array([-1.2, 1.0]), np.eye(2), maxfun=25)
    assert found.evaluations == len(calls) <= 25
    assert found.value == min(calls)
    assert rosenbrock(found.x) == found.value


def test_differences_of_a_curved_function():
    def function(x):
        return float(np.exp(x[0]) * np.sin(x[1]) + x[0] ** 2 * x[2] + 0.5 * x[2] ** 2)

    x = np.array([0.4, -1.7, 2.0])
    e, s, c = np.exp(x[0]), np.sin(x[1]), np.cos(x[1])
    gradient = np.array([e * s + 2 * x[0] * x[2], e * c, x[0] ** 2 + x[2]])
    hessian = np.array(
        [[e * s + 2 * x[2], e * c, 2 * x[0]], [e * c, -e * s, 0.0], [2 * x[0], 0.0, 1.0]]
    )
    # the directions are neither orthogonal nor of one length
    scale = np.array([[1.0, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.4, 2.0]])
    found = central_differences(function, x, scale)
    np.testing.assert_allclose(found[0], gradient, atol=1e-5)
    np.testing.assert_allclose(found[1], hessian, atol=1e-4)
    np.testing.assert_allclose(found[1], found[1].T, rtol=1e-12)
    # errors are of fourth order in the step
    rough = central_differences(function, x, scale, step=0.2)
    fine = central_differences(function, x, scale, step=0.1)
    for a, b, exact in zip(rough, fine, (gradient, hessian), strict=True):
        assert np.max(np.abs(b - exact)) < np.max(np.abs(a - exact)) / 12


def test_differences_of_a_quadratic_are_exact():
    scale = np.diag([0.5, 0.5, 0.1])
    gradient, hessian = central_differences(quadratic, np.zeros(3), scale)
    np.testing.assert_allclose(gradient, CURVATURE @ -CENTRE, rtol=1e-10)
    np.testing.assert_allclose(hessian, CURVATURE, atol=1e-8)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_known_optimizers_are_accepted(name):
    assert check_optimizer(name) == name


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ArgumentError, match=r"no optimizer 'nelder'.*bfgs, bobyqa"):
        check_optimizer("nelder")
