"""Block elimination against the dense oracle: every layout of random effects, every quantity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import layouts
import numpy as np
import pytest
from layouts import LAYOUTS, MORE_LAYOUTS, Group, Layout, Model
from threadpoolctl import threadpool_limits

from mixedlm_jax import corner, modes
from mixedlm_jax import plan as planning
from mixedlm_jax.elimination import (
    Effects,
    adjoint,
    assemble,
    factorize,
    leverages,
    log_determinant,
    predictor,
    row_products,
    selected_inverse,
    solve,
)
from mixedlm_jax.families import FAMILIES
from mixedlm_jax.likelihood import log_likelihood
from mixedlm_jax.modes import find_modes, penalised
from mixedlm_jax.plan import Plan, elimination_order, make_plan
from mixedlm_jax.problem import (
    Params,
    Problem,
    determinant_weights,
    fixed_predictor,
    random_rows,
    row_terms,
    zero_effects,
)

ALL = LAYOUTS | MORE_LAYOUTS
INFORMATION = ("observed", "expected")
# Families whose two informations differ, and one whose observed weights can be negative.
MEMBERS = [
    ("binomial", "probit"),
    ("poisson", "sqrt"),
    ("binomial", "cloglog"),
    ("gaussian", "log"),
    ("binomial", "cauchit"),
]
pytestmark = pytest.mark.usefixtures("x64", "_one_thread")


@pytest.fixture
def _one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def quantities(problem: Problem, params: Params, rhs: Effects) -> dict:
    """Log-likelihood, modes, and what the factored H gives, for both informations."""
    u, gain, _ = find_modes(params, problem, zero_effects(problem))
    plan, z = problem.plan, random_rows(problem, params)
    eta = fixed_predictor(problem, params.beta) + predictor(plan, z, u)
    g = penalised(row_terms(problem, eta, params.phi), u)
    found = {"u": u, "gain": gain, "eta": eta}
    for information in INFORMATION:
        informed = problem.replace(information=information)
        weight = determinant_weights(informed, eta, params.phi)
        factor = factorize(plan, assemble(plan, z, weight))
        v = row_products(plan, selected_inverse(plan, factor), z)
        found[information] = {
            "weight": weight,
            "logdet": log_determinant(factor),
            "log_likelihood": problem.log_base - g - 0.5 * log_determinant(factor),
            "solution": solve(plan, factor, rhs),
            "v": v,
            "leverages": leverages(z, v),
        }
    found["adjoint"] = adjoint(plan, z, eta)
    return found


# Compile time is test time: little is gained by optimising a program of a hundred rows.
QUICKLY = {"xla_backend_optimization_level": 0}
compiled = jax.jit(quantities, compiler_options=QUICKLY)


def split(model: Model, vector: np.ndarray) -> list[np.ndarray]:
    """The oracle's (q,) vector per factor, (k, levels) as the engine has it."""
    parts = []
    for block in model.dense.blocks:
        size = block.n_levels * block.Z.shape[0]
        parts.append(vector[:size].reshape(block.n_levels, -1).T)
        vector = vector[size:]
    assert not vector.size
    return parts


def own_entries(model: Model, vectors: np.ndarray) -> list[np.ndarray]:
    """Of (q, n) vectors, one a row, the entries that belong to the row's own levels: (k, n)."""
    parts = []
    for block in model.dense.blocks:
        k, n = block.Z.shape
        own, vectors = vectors[: block.n_levels * k], vectors[block.n_levels * k :]
        parts.append(own.reshape(block.n_levels, k, n)[block.levels, :, np.arange(n)].T)
    return parts


def near(found, expected, what: str) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10, err_msg=what)


def assert_agrees(model: Model, rng: np.random.Generator) -> dict:
    """Engine and oracle at one point; returns what the engine found."""
    size = sum(block.n_levels * block.Z.shape[0] for block in model.dense.blocks)
    rhs = rng.normal(size=size)
    found = compiled(
        model.problem, layouts.as_jax(model.params), tuple(map(jnp.asarray, split(model, rhs)))
    )
    flat, params = model.flat, model.params
    sigma = float(np.exp(params.phi[0])) if model.family.name == "gaussian" else 1.0
    A = model.dense.design(model.lambdas(params.theta), sigma)
    assert found["gain"] < 1e-12
    for information in INFORMATION:
        dense, ours = model.oracle(flat, information), found[information]
        inverse = np.linalg.inv(dense.H)
        near(ours["log_likelihood"], dense.log_likelihood, "log-likelihood")
        near(found["eta"], dense.eta, "eta")
        near(ours["weight"], dense.W, "weights")
        near(ours["logdet"], dense.logdet, "log-determinant")
        near(ours["leverages"], dense.leverages, "leverages")
        for f, part in enumerate(dense.modes(model.dense)):
            near(found["u"][f], part, f"modes of factor {f}")
        for f, part in enumerate(split(model, inverse @ rhs)):
            near(ours["solution"][f], part, f"solution in factor {f}")
        for f, part in enumerate(own_entries(model, inverse @ A.T)):
            near(ours["v"][f], part, f"row products of factor {f}")
        for f, part in enumerate(split(model, A.T @ dense.eta)):
            near(found["adjoint"][f], part, f"adjoint in factor {f}")
    return found


def draw(name: str, rng: np.random.Generator, **options) -> Model:
    """A model of this layout, of a family that goes with it."""
    family, link = MEMBERS[list(ALL).index(name) % len(MEMBERS)]
    return layouts.draw(family, link, ALL[name], rng, offset=True, **options)


def product_is_dense(plan: Plan) -> list[bool]:
    return [stage.border.pairs is None for stage in plan.stages if stage.border is not None]


def crosses(layout: Layout) -> bool:
    """Whether some factor is not nested in the largest one's chain."""
    levels = layouts.draw_levels(layout, 72, np.random.default_rng(0))
    sizes = [[getattr(g, a) for g in layout.groups] for a in ("n_levels", "n_effects")]
    return bool(elimination_order(levels, *sizes)[1])


CASES = [
    (name, product)
    for name, layout in ALL.items()
    for product in (("dense", "pairs") if crosses(layout) else ("none",))
]


@pytest.mark.parametrize(("name", "product"), CASES)
def test_every_layout_is_the_oracles(name, product, monkeypatch, rng):
    cost = {"dense": 10**12, "pairs": 0, "none": 80}[product]
    monkeypatch.setattr(planning, "_SCATTER_COST", cost)
    model = draw(name, rng, weights="prior")
    dense = product_is_dense(model.problem.plan)
    assert dense == [product == "dense"] * len(dense)
    assert bool(dense) == (product != "none")
    theta = model.params.theta
    for point in (theta, 0 * theta, np.where(np.arange(len(theta)) % 2, theta, 0.0)):
        assert_agrees(model.at(point), rng)


@pytest.mark.parametrize(
    ("family", "link", "name"),
    [
        # every family with its default link; the others are slow
        pytest.param(
            family,
            link,
            name,
            marks=[] if link == FAMILIES[family].links[0] else pytest.mark.slow,
        )
        for (family, link), name in zip(
            layouts.FAMILY_LINKS, [*LAYOUTS] * len(layouts.FAMILY_LINKS), strict=False
        )
    ],
)
def test_log_likelihood_has_every_constant(family, link, name, rng):
    levels_from = rng.integers(1000)  # one design and so one program for all kinds of weights
    for weights in ("none", "prior", "frequency"):
        again = np.random.default_rng(levels_from)
        model = layouts.draw(family, link, LAYOUTS[name], again, weights=weights, offset=True)
        found = whole(model.problem, layouts.as_jax(model.params))
        near(found, model.oracle(model.flat).log_likelihood, weights)


@pytest.mark.parametrize(
    ("family", "link", "name"),
    [("binomial", "probit", "three-way crossed"), ("poisson", "sqrt", "slopes nested and crossed")],
)
def test_a_factor_that_serves_for_several_steps_leads_to_the_same_modes(
    family, link, name, monkeypatch, rng
):
    monkeypatch.setattr(modes, "_MANY_COLUMNS", 1)
    model = layouts.draw(family, link, ALL[name], rng, weights="prior", offset=True)
    problem, params = model.problem, layouts.as_jax(model.params)
    assert modes._keeps_factor(problem)
    expected = tuple(model.oracle(model.flat).modes(model.dense))
    find = jax.jit(lambda start: find_modes(params, problem, start), compiler_options=QUICKLY)
    nowhere = zero_effects(problem)
    near_by = tuple(part + 1e-3 * rng.normal(size=part.shape) for part in expected)
    far = tuple(rng.normal(size=part.shape) * 40.0 for part in nowhere)
    beyond = tuple(np.full(part.shape, 1e300) for part in nowhere)
    for start in (nowhere, near_by, far, beyond):
        u, gain, rounds = find(start)
        assert gain < 1e-12
        assert rounds < (40 if start is far else 15)
        for own, part in zip(u, expected, strict=True):
            near(own, part, "modes")
    assert find(expected)[2] == 1

    def coarse(part):
        return np.asarray(part, np.float32) if part.dtype == np.float64 else part

    single = jax.tree.map(coarse, (params, problem, nowhere))
    u, gain, rounds = jax.jit(find_modes, compiler_options=QUICKLY)(*single)
    assert u[0].dtype == np.float32
    assert rounds < 30
    for own, part in zip(u, expected, strict=True):
        np.testing.assert_allclose(own, part, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [1, 8, 27])
def test_an_inverse_by_halves(n, monkeypatch, rng):
    monkeypatch.setattr(corner, "_UNDIVIDED", 3)
    draws = rng.normal(size=(n, 2 * n))
    matrix = draws @ draws.T
    found = corner.inverse(matrix, np.linalg.cholesky(matrix))
    near(found, np.linalg.inv(matrix), "inverse")


def log_likelihood_at(problem: Problem, params: Params) -> jax.Array:
    return log_likelihood(params, problem, zero_effects(problem))


whole = jax.jit(log_likelihood_at, compiler_options=QUICKLY)


def crossed_with_odd_levels(rng: np.random.Generator) -> Model:
    """Crossed factors: a level of one row, and one none of whose rows has any weight."""
    model = layouts.draw("binomial", "probit", LAYOUTS["crossed"], rng, n=90, weights="prior")
    first, *others = model.design.factors
    levels = first.levels.copy()
    (zero,) = np.nonzero(levels == 0)
    levels[zero[1:]] = 1
    weights = np.where(levels == 2, 0.0, model.design.weights)
    weights[zero[0]] = 1.3
    assert np.sum(levels == 0) == 1
    return model.with_design(factors=(replace(first, levels=levels), *others), weights=weights)


def test_levels_of_one_row_and_levels_without_weight(rng):
    found = assert_agrees(crossed_with_odd_levels(rng), rng)
    np.testing.assert_array_equal(found["u"][0][:, 2], 0.0)


def test_rows_without_weight_may_hold_any_response(rng):
    model = crossed_with_odd_levels(rng)
    y = np.where(model.design.weights > 0, model.design.y, 0.0)
    a, b = model.with_design(y=y), model
    assert not np.array_equal(a.design.y, b.design.y)
    values = [float(whole(m.problem, layouts.as_jax(m.params))) for m in (a, b)]
    assert values[0] == values[1]


def test_order_of_rows_and_labels_of_levels_do_not_matter(rng):
    model = draw("nested and crossed", rng, weights="prior")
    here = assert_agrees(model, rng)
    value = float(whole(model.problem, layouts.as_jax(model.params)))

    rows = rng.permutation(len(model.design.y))
    arrays = ("y", "trials", "weights", "offset", "X")
    shuffled = model.with_design(
        factors=tuple(
            replace(f, levels=f.levels[rows], Z=f.Z[:, rows]) for f in model.design.factors
        ),
        **{name: getattr(model.design, name)[rows] for name in arrays},
    )
    there = compiled(shuffled.problem, layouts.as_jax(model.params), here["u"])
    near(there["eta"], np.asarray(here["eta"])[rows], "eta of shuffled rows")
    for old, new in zip(here["u"], there["u"], strict=True):
        near(new, old, "modes of shuffled rows")
    near(whole(shuffled.problem, layouts.as_jax(model.params)), value, "log-likelihood")

    names = [rng.permutation(f.n_levels) for f in model.design.factors]
    renamed = model.with_design(
        factors=tuple(
            replace(f, levels=new[f.levels].astype(np.int32))
            for f, new in zip(model.design.factors, names, strict=True)
        )
    )
    there = compiled(renamed.problem, layouts.as_jax(model.params), here["u"])
    for old, new, name in zip(here["u"], there["u"], names, strict=True):
        near(np.asarray(new)[:, name], old, "modes of renamed levels")
    near(whole(renamed.problem, layouts.as_jax(model.params)), value, "log-likelihood")


def test_order_of_factors_does_not_matter(rng):
    model = draw("slopes nested and crossed", rng)
    turned = layouts.draw_levels(model.layout, 72, rng)
    sizes = [[getattr(g, a) for g in model.layout.groups] for a in ("n_levels", "n_effects")]
    chain, kept = elimination_order(turned, *sizes)
    for order in ([2, 0, 1], [1, 2, 0], [2, 1, 0]):
        moved = elimination_order(
            [turned[f] for f in order], *([size[f] for f in order] for size in sizes)
        )
        assert ([order[f] for f in moved[0]], [order[f] for f in moved[1]]) == (
            list(chain),
            list(kept),
        )


# ----------------------------------------------------------------------------------------------
# The plan: what is eliminated, what is kept


def plan_of(groups: list[Group], n: int, seed: int = 0) -> Plan:
    levels = layouts.draw_levels(Layout(tuple(groups)), n, np.random.default_rng(seed))
    return make_plan(levels, [g.n_levels for g in groups], [g.n_effects for g in groups])


@pytest.mark.parametrize(
    ("groups", "chain", "kept", "columns"),
    [
        pytest.param([Group(300)], (0,), (), 0, id="single"),
        pytest.param([Group(40, 3)], (0,), (), 0, id="single with slopes"),
        pytest.param(
            [Group(400, within=1), Group(80, within=2), Group(20, within=3), Group(4)],
            (0, 1, 2, 3),
            (),
            0,
            id="nested four deep",
        ),
        pytest.param([Group(60), Group(20)], (0,), (1,), 20, id="crossed"),
        pytest.param([Group(20), Group(60)], (1,), (0,), 20, id="crossed, smaller first"),
        pytest.param([Group(30), Group(20, 2)], (1,), (0,), 30, id="more effects, fewer levels"),
        pytest.param([Group(60), Group(20, 2)], (0,), (1,), 40, id="slope on the smaller side"),
        pytest.param([Group(60), Group(20), Group(9)], (0,), (1, 2), 29, id="three-way crossed"),
        # stopping at the first filled factor would put school into the corner beside item
        pytest.param(
            [Group(300, within=2), Group(20), Group(19)], (0, 2), (1,), 20, id="school under item"
        ),
        pytest.param(
            [Group(300, within=2), Group(20), Group(24)], (0, 2), (1,), 20, id="school over item"
        ),
        pytest.param(
            [Group(200, within=2), Group(30), Group(50, 2, within=3), Group(10)],
            (0, 2, 3),
            (1,),
            30,
            id="nested three deep, crossed",
        ),
        pytest.param(
            [Group(300, within=2), Group(30, within=3), Group(40), Group(6)],
            (0, 2),
            (1, 3),
            36,
            id="nested crossed with nested",
        ),
    ],
)
def test_the_corner_has_the_size_of_the_smaller_side(groups, chain, kept, columns):
    plan = plan_of(groups, 2400)
    assert plan.chain == chain
    assert plan.kept == kept
    assert plan.n_columns == columns


def test_cost_decides_how_the_corner_is_formed():
    full = plan_of([Group(60), Group(12)], 60 * 12 * 6)
    assert product_is_dense(full) == [True]
    n = 4000  # two rows a level of 2,000, over 500 columns
    level = np.repeat(np.arange(2000), 2)
    column = np.random.default_rng(0).permutation(np.arange(n) % 500)
    sparse = make_plan([level, column], [2000, 500], [1, 1])
    assert product_is_dense(sparse) == [False]
    (border,) = (stage.border for stage in sparse.stages)
    assert border is not None
    assert border.pairs is not None
    cells = np.unique(level * 500 + column)
    count = np.bincount(cells // 500)
    wanted = np.sum(count * (count + 1) // 2)
    spare = border.pairs.first[wanted:]  # pairs that fill up a bucket are of entries that do
    assert np.all(border.pairs.first[:wanted] < len(cells))
    assert np.all(spare >= len(cells))
    assert len(border.level) > len(cells)
    assert np.array_equal(border.level[: len(cells)] * 500 + border.column[: len(cells)], cells)


def test_nesting_costs_what_the_rows_cost():
    plan = plan_of([Group(900, within=1), Group(300, within=2), Group(30)], 2700)
    arrays = jax.tree.leaves(plan)
    assert sum(np.size(array) for array in arrays) == 3 * 2700 + 2 * 900 + 300


def test_plans_of_one_shape_share_a_program():
    traced = []

    @jax.jit
    def total(plan):
        traced.append(plan)
        return sum(jnp.sum(level) for level in plan.levels)

    for seed in range(3):
        total(plan_of([Group(24, within=1), Group(6)], 72, seed))
    assert len(traced) == 1


def test_an_indefinite_matrix_shows():
    plan = plan_of([Group(6), Group(4)], 48)
    z = (jnp.ones((1, 48)), jnp.ones((1, 48)))

    @jax.jit
    def logdet(plan, z, weight):  # indices that are constants would be folded, for seconds
        return log_determinant(factorize(plan, assemble(plan, z, weight)))

    assert np.isfinite(logdet(plan, z, jnp.full(48, -0.01)))
    assert np.isnan(logdet(plan, z, jnp.full(48, -1.0)))
