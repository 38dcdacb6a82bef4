"""Very many rows: in blocks, in the order of their levels, and from the optimum of some groups."""

from __future__ import annotations

import weakref
from dataclasses import replace

import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pandas as pd
import pytest
from layouts import LAYOUTS, compiled

import mixedlm_jax as mlm
from mixedlm_jax import buckets, fewer, objective, plan, search, start
from mixedlm_jax.arrays import aligned_empty
from mixedlm_jax.blocks import over_blocks
from mixedlm_jax.buckets import padded, row_bucket, row_order
from mixedlm_jax.call import Call
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.design import Factor
from mixedlm_jax.families import Poisson
from mixedlm_jax.fewer import fewer_groups
from mixedlm_jax.formula import parse
from mixedlm_jax.hessian import laplace_hessian
from mixedlm_jax.likelihood import laplace, laplace_gradient
from mixedlm_jax.modes import find_modes
from mixedlm_jax.objective import LaplaceObjective
from mixedlm_jax.placement import let_go
from mixedlm_jax.plan import in_blocks, in_smaller_blocks, make_plan
from mixedlm_jax.problem import zero_effects
from mixedlm_jax.start import first_params, prepare

LAPLACE = LaplaceObjective()
pytestmark = pytest.mark.usefixtures("x64")


def in_order(model):
    """The model with its rows by the levels of its first factor, but that pairs are mixed."""
    rows = np.argsort(model.design.factors[0].levels // 2, kind="stable")
    arrays = ("y", "trials", "weights", "offset", "X")
    return model.with_design(
        factors=tuple(
            replace(f, levels=f.levels[rows], Z=f.Z[:, rows]) for f in model.design.factors
        ),
        **{array: getattr(model.design, array)[rows] for array in arrays},
    )


def blocked(problem, blocks=4):
    return problem.replace(plan=replace(problem.plan, blocks=blocks))


@compiled
def everything(problem, params):
    u = zero_effects(problem)
    found = laplace_gradient(params, problem, u)
    return found, laplace_hessian(params, problem, u), prepare(problem, params, 2)


@pytest.mark.parametrize(
    ("family", "link", "name", "information"),
    [
        ("binomial", "cloglog", "nested", "expected"),
        ("gamma", "log", "slope", "observed"),
    ],
)
def test_blocks_add_up_to_all_rows(family, link, name, information, monkeypatch, rng):
    """With windows and without."""
    model = layouts.draw(
        family, link, LAYOUTS[name], rng, weights="prior", offset=True, information=information
    )
    model = in_order(model)
    problem, params = model.problem.replace(information=information), layouts.as_jax(model.params)
    monkeypatch.setattr(plan, "_BLOCK_ROWS", 18)
    in_windows = problem.replace(plan=in_blocks(problem.plan))
    assert in_windows.plan.blocks == 4
    windows = in_windows.plan.block_windows
    assert windows is not None
    assert windows.width <= model.design.factors[0].n_levels // 2
    whole = everything(problem, params)
    for blocks in (blocked(problem), in_windows):
        parts = everything(blocks, params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-9), whole, parts
        )


def test_a_hessian_that_is_not_definite_is_replaced_in_blocks_too(monkeypatch, rng):
    """Far from the modes a t has rows of negative weight, which the search must do without."""
    monkeypatch.setattr(plan, "_BLOCK_ROWS", 18)
    model = in_order(layouts.draw("student_t", "identity", LAYOUTS["slope"], rng))
    problem, params = model.problem, layouts.as_jax(model.params)
    far = tuple(40.0 * rng.normal(size=part.shape) for part in zero_effects(problem))
    in_windows = problem.replace(plan=in_blocks(problem.plan))
    assert in_windows.plan.block_windows is not None
    (whole, _, rounds), *others = (
        find_modes(params, p, far) for p in (problem, blocked(problem), in_windows)
    )
    assert int(rounds) > 3
    for u, _, spent in others:
        assert int(spent) == int(rounds)
        np.testing.assert_allclose(u[0], whole[0], atol=1e-9)


def test_what_a_block_keeps_is_put_together(rng):
    problem = blocked(layouts.draw("poisson", "log", LAYOUTS["slope"], rng, n=24).problem, 3)

    def part_of(part, y):
        return jnp.sum(part.y), (part.Z[0] * y[None, :], part.y - y)

    total, (rows, none) = over_blocks(part_of, problem, jnp.asarray(problem.y))
    assert float(total) == problem.y.sum()
    np.testing.assert_array_equal(rows, problem.Z[0] * problem.y)
    np.testing.assert_array_equal(none, np.zeros(24))


def with_rows(n, n_levels=3):
    return make_plan([np.arange(n) % n_levels], [n_levels], [1])


@pytest.mark.parametrize("n", [300_000, 524_289, 1_000_000, 1_400_000, 3_333_333])
def test_padded_rows_have_blocks_of_a_good_size(n):
    rows = row_bucket(n)
    blocks = in_blocks(with_rows(rows)).blocks
    assert rows % blocks == 0
    assert 2**16 <= rows // blocks <= 2**18


def test_who_has_no_blocks():
    assert in_blocks(with_rows(2**18)).blocks == 0
    assert in_blocks(with_rows(262_147)).blocks == 0, "a prime number"
    mixed = np.random.default_rng(0).permutation(2**19)
    assert in_blocks(make_plan([mixed], [2**19], [1])).blocks == 0, "more levels than rows"
    crossed = [np.arange(2**19) % 8, np.arange(2**19) // 8 % 6]
    assert in_blocks(make_plan(crossed, [8, 6], [1, 1])).blocks == 0


def test_which_blocks_have_windows(rng):
    levels = np.arange(2**19) // 4
    ordered = in_blocks(make_plan([levels], [2**17], [1]))
    assert ordered.blocks == 2
    assert ordered.block_windows is not None
    assert ordered.block_windows.width == 2**16
    np.testing.assert_array_equal(ordered.block_windows.first, [0, 2**16])
    assert in_blocks(make_plan([rng.permutation(levels)], [2**17], [1])).block_windows is None
    # the last of a range that is filled up to a bucket stays within the levels
    uneven = in_blocks(make_plan([np.sort(rng.integers(1_000, size=2**20))], [1_000], [1]))
    assert uneven.block_windows is not None
    assert uneven.block_windows.first[-1] + uneven.block_windows.width == 1_000
    of_block = np.sort(uneven.levels[0]).reshape((uneven.blocks, -1))
    assert np.all(of_block.min(axis=1) >= uneven.block_windows.first)
    assert np.all(of_block.max(axis=1) < uneven.block_windows.first + uneven.block_windows.width)


def test_blocks_are_halved_until_they_are_small():
    plan = in_blocks(with_rows(2**20, 2**16))
    assert plan.blocks == 4
    assert plan.block_windows is None
    ordered = in_blocks(make_plan([np.arange(2**20) // 16], [2**16], [1]))
    windows = in_smaller_blocks(ordered, 2**17).block_windows
    assert windows is not None
    assert ordered.block_windows is not None
    assert windows.width == ordered.block_windows.width
    np.testing.assert_array_equal(windows.first, np.repeat(ordered.block_windows.first, 2))
    assert in_smaller_blocks(plan, 2**18).blocks == 4
    assert in_smaller_blocks(plan, 40_000).blocks == 32
    assert in_smaller_blocks(replace(plan, blocks=2**18), 1).blocks == 2**20
    assert in_smaller_blocks(with_rows(2**20), 1).blocks == 0, "who has none gets none"


def test_a_hessian_of_many_parameters_bounds_its_memory(rng, monkeypatch):
    model = layouts.draw("poisson", "log", LAYOUTS["intercept"], rng)
    problem, x = model.problem, jnp.asarray(model.flat)

    def hessian(problem):
        def of(x):
            return LAPLACE.hessian(problem, x, zero_effects(problem), 1)

        return compiled(of)(x), jax.make_jaxpr(of)(x)

    whole, program = hessian(blocked(problem, 2))
    assert "36]" in str(program), "a block has 36 rows"
    monkeypatch.setattr(objective, "_HESSIAN_TANGENTS", 18 * len(x))
    parts, program = hessian(blocked(problem, 2))
    assert "36]" not in str(program)
    assert "18]" in str(program)
    by_columns, _ = hessian(problem)  # of no blocks, and too large at once
    np.testing.assert_allclose(parts, whole, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(by_columns, whole, rtol=1e-9, atol=1e-9)


def test_memory_goes_to_the_device_without_a_copy_and_comes_back():
    array = aligned_empty((3, 1000), np.float64)
    assert array.flags.c_contiguous
    array[...] = 1.0
    placed = jax.device_put(array)
    if jax.default_backend() == "cpu":
        assert placed.unsafe_buffer_pointer() == array.ctypes.data
    memory: weakref.ref = weakref.ref(array.base)
    del array, placed
    let_go()
    assert memory() is None


def test_rows_by_level():
    rng = np.random.default_rng(3)
    levels = rng.integers(2**17, size=2**18)
    design = layouts.draw("poisson", "log", LAYOUTS["intercept"], rng, n=len(levels)).design
    design = replace(design, factors=(Factor(levels, 2**17, np.ones((1, len(levels)))),))
    order = row_order(design)
    assert order is not None
    np.testing.assert_array_equal(np.sort(order), np.arange(len(levels)))
    assert np.all(np.diff(levels[order] // 4) >= 0), "pairs may be mixed, no more"

    filled = padded(design, order)
    np.testing.assert_array_equal(filled.y[: len(order)], design.y[order])
    np.testing.assert_array_equal(filled.X[: len(order)], design.X[order])
    np.testing.assert_array_equal(filled.factors[0].levels[: len(order)], levels[order])
    assert filled.factors[0].Z.shape == (1, len(filled.y))

    straight = replace(design, factors=(replace(design.factors[0], levels=np.sort(levels)),))
    assert row_order(straight) is None
    few = replace(straight, factors=(Factor(levels % 99, 99, np.ones((1, len(levels)))),))
    assert row_order(few) is None


# ----------------------------------------------------------------------------------------------
# Some of the groups


@pytest.fixture
def small(monkeypatch):
    """All that sets in with very many rows sets in with 4,000."""
    monkeypatch.setattr(fewer, "_FEW_ROWS", 900)
    monkeypatch.setattr(fewer, "_LEAST_GROUPS", 20)
    monkeypatch.setattr(plan, "_BLOCK_ROWS", 1024)
    monkeypatch.setattr(buckets, "_MANY_LEVELS", 100)


def schools(seed=1):
    """4,000 rows in 400 rooms of 100 schools, in no order."""
    rng = np.random.default_rng(seed)
    room = rng.permutation(np.arange(4000) % 400)
    school, x = room // 4, rng.normal(size=4000)
    eta = 0.4 * x - 0.5 + 0.8 * rng.normal(size=100)[school] + 0.6 * rng.normal(size=400)[room]
    y = rng.poisson(np.exp(eta))
    return pd.DataFrame({"y": y, "x": x, "school": school, "room": room})


FORMULA = "y ~ x + (1 | school) + (1 | room)"


def described(formula, frame):
    return Call(parse(formula), frame, Poisson())


def test_the_few_are_whole_groups(small):
    frame = schools()
    call = described(FORMULA, frame)
    whole = call.problem(padded(call.build()[0]))
    few = fewer_groups(whole)
    assert few is not None
    used = few.weights > 0
    assert 600 < used.sum() <= 900
    drawn = frame[np.isin(frame["x"], few.X[used, 1])]
    assert len(drawn) == used.sum()
    assert len(frame[frame["school"].isin(drawn["school"])]) == len(drawn)
    assert not frame[~frame.index.isin(drawn.index)]["room"].isin(drawn["room"]).any()

    call = described(FORMULA, drawn)
    of_frame = call.problem(padded(call.build()[0]))
    params = layouts.as_jax(whole.split(np.array([0.5, 0.7, -0.2, 0.3])))
    values = [
        float(compiled(laplace)(params, p, zero_effects(p))) - float(p.log_base)
        for p in (few, of_frame)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-12)


def test_who_has_no_few(small, monkeypatch):
    frame = schools()

    def few(formula, data):
        call = described(formula, data)
        return fewer_groups(call.problem(padded(call.build()[0])))

    assert few("y ~ x + (1 | room)", frame) is not None
    assert few("y ~ x + (1 | room)", frame[:3000]) is None, "a fit of so few rows is quick"
    assert few("y ~ x + (1 | room) + (1 | other)", frame.assign(other=frame.index % 7)) is None
    monkeypatch.setattr(fewer, "_LEAST_GROUPS", 100)
    assert few("y ~ x + (1 | school)", frame) is None


def test_a_fit_of_many_rows_is_the_fit(small, monkeypatch):
    frame = schools()
    many = mlm.glmer(FORMULA, frame, "poisson")
    assert many.call.problem(padded(many.design)).plan.blocks == 4
    assert row_order(many.design) is not None
    monkeypatch.undo()
    plain = mlm.glmer(FORMULA, frame, "poisson")
    assert many.optinfo["path"] == ("fewer groups", "bfgs")
    assert plain.optinfo["path"] == ("pirls", "bfgs")
    assert float(many.logLik()) == pytest.approx(float(plain.logLik()), abs=1e-8)
    for name in ("theta", "beta", "vcov", "eta"):
        np.testing.assert_allclose(
            getattr(many.fit, name), getattr(plain.fit, name), rtol=1e-4, atol=1e-6
        )
    np.testing.assert_allclose(many.fit.b[0], plain.fit.b[0], atol=1e-5)


def test_a_start_that_was_given_is_where_it_starts(small, monkeypatch):
    def never(*_):
        raise AssertionError("somebody said where to begin")

    monkeypatch.setattr(search, "from_fewer_groups", never)
    frame = schools()
    mlm.glmer(FORMULA, frame, "poisson", start={"beta": [-0.5, 0.4]})
    bobyqa = GlmerControl(optimizer="bobyqa", maxfun=2)
    with pytest.warns(mlm.ConvergenceWarning):
        mlm.glmer("y ~ x + (1 | room)", frame, "poisson", control=bobyqa)


def test_few_that_know_nothing_of_rows_outside_the_domain(small):
    """Three of 100 rooms have an x that only they have, where the few's slope leaves the domain."""
    rng = np.random.default_rng(25)
    room = np.arange(4000) % 100
    x = np.where(room < 3, -0.97, rng.random(4000))
    own = rng.normal(size=100)
    own = np.where(np.arange(100) < 3, 0.2 * np.abs(own), own)
    y = rng.gamma(3.0, 1.0 / (1.0 + x + 0.01 * own[room]) / 3.0)
    frame = pd.DataFrame({"y": y, "x": x, "room": room})
    model = mlm.glmer("y ~ x + (1 | room)", frame, mlm.families.Gamma("inverse"))
    assert model.optinfo["path"] == ("pirls", "bfgs")
    assert model.optinfo["stopped"] == "converged"


def test_a_first_beta_from_few_rows(monkeypatch):
    """Every second row is of one treatment: the first beta must then be fitted to all."""
    rng = np.random.default_rng(0)
    g, treatment = np.arange(400) // 2 % 30, np.where(np.arange(400) % 2 == 0, "a", "b")
    eta = 1.5 + 0.3 * (treatment == "b") + 0.1 * rng.normal(size=30)[g]
    frame = pd.DataFrame({"y": rng.gamma(5.0, 1.0 / eta / 5.0), "g": g, "treatment": treatment})
    call = Call(parse("y ~ 0 + treatment + (1 | g)"), frame, mlm.families.Gamma("inverse"))
    problem = call.problem(padded(call.build()[0]))
    whole = first_params(problem, None).beta
    monkeypatch.setattr(start, "_FIRST_ROWS", 200)
    np.testing.assert_allclose(first_params(problem, None).beta, whole)
    monkeypatch.setattr(start, "_FIRST_ROWS", 150)  # every third
    np.testing.assert_allclose(first_params(problem, None).beta, whole, atol=0.3)


def test_a_few_that_say_nothing_are_not_asked(small):
    """All groups alike: the few end on the boundary, and the search begins as any other."""
    frame = schools().assign(y=np.arange(4000) % 3)
    call = described("y ~ x + (1 | room)", frame)
    assert fewer_groups(call.problem(padded(call.build()[0]))) is not None
    with pytest.warns(mlm.SingularFitWarning):
        model = mlm.glmer("y ~ x + (1 | room)", frame, "poisson")
    assert model.optinfo["path"][0] == "pirls"
