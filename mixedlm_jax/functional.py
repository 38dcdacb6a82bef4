"""The likelihood as a JAX function, for those who differentiate, sample and optimise through it.

    from mixedlm_jax import functional as mf

    problem = mf.make_problem("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    params = mf.init(problem)
    jax.value_and_grad(mf.log_likelihood)(params, problem)

A `Problem` and `Params` are pytrees. Every function here but `make_problem` and `init` can be
compiled, differentiated (forward and reverse, to any order) and vmapped, in the parameters and in
every array of the problem. A response is differentiated by as the continuous variable its density
is written for: a zero that has a probability of its own (Tweedie's, a hurdle's, an inflated one) is
no such point. JAX's configuration is never touched.

Precision is that of the arrays: float32, or float64 where JAX has that enabled; less is refused. In
float32, over the 44 models recorded in the tests (up to 7,584 rows, Laplace and up to 50 nodes),
the log-likelihood is right to 2e-6 of its size, its gradient to 1e-4 and the estimates of `solve`
to 2e-3 standard errors; a decrement below 2e-6 is not told from 0. That will do to estimate, train
and sample. Differences of log-likelihoods, such as likelihood ratios, need float64 where 2e-6 of
the log-likelihood is no small number.

Devices are those of the arrays: what was put on one (`jax.device_put(problem, device)`) is computed
there, and its results stay there. `shard_rows` divides the rows of one problem among devices, and
lanes of `vmap` whose arrays are divided (`jax.device_put(Y, NamedSharding(...))`) are computed each
on its own. `init` works on the host, and its parameters go where the problem is.

Parameters: theta as in lme4 (the lower triangle of each term's relative covariance factor; relative
to sigma for the Gaussian, absolute elsewhere), of either sign; beta on the scale of the linear
predictor; phi unconstrained, such as the logarithm of sigma (`Problem.reported_phi` gives its
natural values), of shape (0,) where the family has nothing of its own to estimate.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixedlm_jax import modes
from mixedlm_jax import problem as engine
from mixedlm_jax.arrays import Array
from mixedlm_jax.call import Call
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.dispersion import phi_names
from mixedlm_jax.elimination import Effects
from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.estimate import MAX_EVALUATIONS, Optimum, descend, maximise, optimum
from mixedlm_jax.families import Family, resolve
from mixedlm_jax.formula import parse
from mixedlm_jax.inference import cluster_scores
from mixedlm_jax.names import theta_names
from mixedlm_jax.objective import objective_for
from mixedlm_jax.placement import shard_rows
from mixedlm_jax.posterior import Position, Posterior
from mixedlm_jax.priors import as_prior
from mixedlm_jax.problem import Params, zero_effects
from mixedlm_jax.start import first_params

__all__ = [
    "Names",
    "Optimum",
    "Params",
    "Position",
    "Posterior",
    "Problem",
    "conditional_modes",
    "init",
    "joint_log_density",
    "log_likelihood",
    "log_posterior",
    "make_problem",
    "optimize",
    "score_contributions",
    "shard_rows",
    "solve",
]

_ROWS = ("y", "trials", "weights", "offset")
_DATA = (*_ROWS, "X", "Z", "phi_matrices", "prior")


class Names(NamedTuple):
    """Names of the parameters, as a summary has them."""

    theta: tuple[str, ...]
    beta: tuple[str, ...]
    phi: tuple[str, ...]

    @property
    def flat(self) -> tuple[str, ...]:
        """All of them, in the order of `Params.flat`."""
        return self.theta + self.beta + self.phi


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Problem(engine.Problem):
    """A model as a pytree: arrays are leaves, all else is static.

    Attributes
    ----------
    y, trials, weights, offset
        Shape (n,): the response (successes, where the family takes trials), the trials (1 where it
        takes none), prior weights, and the offset of the linear predictor. A row of weight 0 (or
        less) is absent: the derivative in its weight is 0.
    X
        Shape (n, p), fixed effects.
    Z
        Per grouping factor (k, n), covariates of its k random effects.
    plan
        Index arrays: `plan.levels` holds the level of each row, per grouping factor (n,).
    phi_matrices
        Model matrices of `dispformula` and `ziformula`.
    prior
        None, or a prior of `mixedlm_jax.priors`, which `solve`, `optimize` and `log_posterior` add.
        `log_likelihood` is without it.
    family, terms, weights_type, information, nAGQ, names
        Static. nAGQ is 1 for Laplace's approximation, else the number of quadrature nodes.
    """

    nAGQ: int = field(default=1, metadata={"static": True})
    names: Names = field(default=Names((), (), ()), metadata={"static": True})

    def replace(self, **changes: Any) -> Problem:
        """The problem with other arrays or settings: `problem.replace(weights=w)`.

        X may have another number of columns. Lists and Series become arrays. Raises `ArgumentError`
        for arrays of another shape, unknown names, and an nAGQ or information that the model does
        not allow.
        """
        known = [part.name for part in dataclasses.fields(self)]
        for name, value in changes.items():
            if name not in known:
                raise ArgumentError(f"a problem has no {name!r}; it has {', '.join(known)}")
            if name in (*_ROWS, "X") and (isinstance(value, list) or hasattr(value, "to_numpy")):
                changes[name] = np.asarray(value)
            _check_shape(name, getattr(self, name), changes[name])
        if "prior" in changes:
            changes["prior"] = as_prior(changes["prior"])
        if "X" in changes and np.shape(changes["X"])[1] != len(self.names.beta):
            columns = tuple(f"X{j}" for j in range(np.shape(changes["X"])[1]))
            changes.setdefault("names", self.names._replace(beta=columns))
        changed = dataclasses.replace(self, **changes)
        if "nAGQ" in changes:
            _check_nAGQ(changed)
        if "information" in changes:
            control = GlmerControl(information=changed.information)
            engine.check_information(changed.family, control.information)
        return changed


def _check_shape(name: str, old: Any, new: Any) -> None:
    if name in _ROWS and np.shape(new) != np.shape(old):
        raise ArgumentError(f"{name} has shape {np.shape(new)}, and the problem {np.shape(old)}")
    if name == "X" and (np.ndim(new) != 2 or np.shape(new)[0] != np.shape(old)[0]):
        raise ArgumentError(
            f"X has shape {np.shape(new)}; give a matrix of {np.shape(old)[0]} rows"
        )
    if name == "Z" and [np.shape(part) for part in new] != [np.shape(part) for part in old]:
        raise ArgumentError(
            f"Z has parts of shapes {[np.shape(part) for part in new]}, and the problem "
            f"{[np.shape(part) for part in old]}: one (effects, rows) for each grouping factor"
        )


def _check_nAGQ(problem: Problem) -> None:
    if not isinstance(problem.nAGQ, int) or problem.nAGQ < 1:
        raise ArgumentError(
            f"nAGQ is {problem.nAGQ!r}; a likelihood of all parameters needs 1 (Laplace) or a "
            "number of quadrature nodes from 2"
        )
    objective_for(problem.nAGQ).check(problem)


def make_problem(
    formula: str,
    data: Any,
    family: Family | type[Family] | str = "gaussian",
    nAGQ: int = 1,
    *,
    weights: Any = None,
    weights_type: str = "prior",
    offset: Any = None,
    na_action: str = "omit",
    contrasts: Mapping[str, str] | None = None,
    ziformula: str | None = None,
    dispformula: str | None = None,
    information: str = "observed",
    max_corner: int = GlmerControl.max_corner,
    prior: Any = None,
) -> Problem:
    """The arrays of a model, its rows in the order of the data without the dropped ones.

    Parameters
    ----------
    formula, data, family, weights, weights_type, offset, na_action, contrasts, ziformula, \
dispformula
        As in `glmer`.
    nAGQ
        1 for the Laplace approximation, from 2 the nodes of adaptive Gauss-Hermite quadrature.
    information
        Weights in the Laplace determinant, "observed" or "expected".
    max_corner
        As in `GlmerControl`. A Schur complement of crossed factors that is not formed allows first
        derivatives of the log-likelihood only, and no `solve`.
    prior
        As in `Problem`.

    Returns
    -------
    Problem
        Of JAX arrays in the default precision: float32, or float64 where it is enabled.

    Raises
    ------
    FormulaError, DataError, ArgumentError
        As `glmer`; and for nAGQ=0, which has no likelihood of all parameters, and quasi families,
        which have none at all.

    Examples
    --------
    >>> from mixedlm_jax import functional as mf
    >>> cbpp = mlm.load_cbpp()
    >>> problem = mf.make_problem("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    >>> problem.names.flat[:2], problem.X.shape
    (('herd.(Intercept)', '(Intercept)'), (56, 4))
    """
    call = Call(
        formula=parse(formula),
        data=data,
        family=resolve(family),
        nAGQ=nAGQ,
        weights=weights,
        weights_type=weights_type,
        offset=offset,
        na_action=na_action,
        contrasts=contrasts,
        ziformula=ziformula,
        dispformula=dispformula,
    )
    if call.family.is_quasi:
        raise ArgumentError(
            "a quasi family has no likelihood; give a family with a distribution, or fit it with "
            "glmer"
        )
    design, labels = call.build()
    control = GlmerControl(information=information, max_corner=max_corner)
    made = engine.make_problem(
        design, call.family, information=control.information, crossing=control.crossing
    )
    names = Names(
        tuple(theta_names(design, labels)),
        labels.fixed,
        phi_names(call.family, labels.parts),
    )
    made = jax.tree.map(jnp.asarray, made.replace(prior=as_prior(prior)))
    parts = {part.name: getattr(made, part.name) for part in dataclasses.fields(made)}
    problem = Problem(**parts, nAGQ=int(nAGQ), names=names)
    _check_nAGQ(problem)
    return problem


def init(problem: Problem) -> Params:
    """Rough parameters to start from, in the precision of the problem.

    theta (n_theta,), beta (p,), phi (n_phi,). A host function: inside jit, grad or vmap give
    `solve` parameters that were made outside.

    Raises
    ------
    ArgumentError
        Under a transformation of JAX's.
    DataError
        Where no beta puts every row into the domain of a restricted link.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(problem)):
        raise ArgumentError(
            "init needs arrays with values, and was called inside jit, grad or vmap: call it "
            "outside, and pass on the parameters it gives"
        )
    exact = jax.tree.map(_on_host, problem)
    with jax.enable_x64(True):
        first = first_params(exact, None)
    return Params(*(jnp.asarray(part, _dtype(problem)) for part in first))


def _on_host(leaf: Any) -> np.ndarray:
    array = np.asarray(leaf)
    return array.astype(float) if np.issubdtype(array.dtype, np.floating) else array


def _dtype(*trees: Any) -> Any:
    """The precision that floating-point leaves have together; `ArgumentError` below float32."""
    kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(trees)]
    floating = [kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)]
    dtype = jnp.result_type(*floating) if floating else jnp.result_type(float)
    if jnp.finfo(dtype).bits < 32:
        raise ArgumentError(
            f"the arrays are in {dtype}, too coarse for a likelihood; give them in float32 or "
            "float64"
        )
    return dtype


def _together(problem: Problem, *others: Any) -> tuple[Any, ...]:
    """Everything in one precision; whole numbers among the data become floating point."""
    data = {name: getattr(problem, name) for name in _DATA}
    dtype = _dtype(data, others)
    data, others = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (data, others))
    return (dataclasses.replace(problem, **data), *others)


def _checked(params: Any, problem: Problem) -> Params:
    """Raise `ArgumentError` for parameters of other lengths than the problem's."""
    sizes = (problem.n_theta, problem.X.shape[1], problem.n_phi)
    found = tuple(np.shape(part) for part in params)
    if found != tuple((size,) for size in sizes):
        raise ArgumentError(
            f"the parameters have shapes {found}; theta, beta and phi of this problem have lengths "
            f"{sizes}"
        )
    return Params(*params)


def log_likelihood(params: Params, problem: Problem) -> Array:
    """The marginal log-likelihood with every normalising constant (scalar).

    By Laplace's approximation or by adaptive Gauss-Hermite quadrature, as `problem.nAGQ` says:
    what `glmer` maximises. -inf where the linear predictor leaves the link's domain.

    Parameters
    ----------
    params
        theta (n_theta,), beta (p,), phi (n_phi,).
    problem
        From `make_problem`.

    Raises
    ------
    ArgumentError
        For parameters of other lengths.
    """
    return _log_likelihood(_checked(params, problem), problem)


@jax.jit
def _log_likelihood(params: Params, problem: Problem) -> Array:
    problem, params = _together(dataclasses.replace(problem, prior=None), params)
    value = objective_for(problem.nAGQ).value(problem, params.flat, zero_effects(problem))
    return problem.log_base - value


def joint_log_density(params: Params, u: Effects, problem: Problem) -> Array:
    """log f(y | u) + log f(u), of the responses and the random effects together (scalar).

    u: spherical random effects, per grouping factor (k, levels), independent standard normal; the
    effects on the scale of the linear predictor are Lambda(theta) u. Every constant is in. Raises
    `ArgumentError` for other shapes.
    """
    sizes = [np.shape(part) for part in zero_effects(problem)]
    found = [np.shape(part) for part in u]
    if found != sizes:
        raise ArgumentError(
            f"u has parts of shapes {found}; give one (effects, levels) for each grouping factor, "
            f"here {sizes}"
        )
    return _joint_log_density(_checked(params, problem), tuple(u), problem)


@jax.jit
def _joint_log_density(params: Params, u: Effects, problem: Problem) -> Array:
    problem, params, u = _together(problem, params, u)
    _, eta = engine.rows_at(problem, params, u)
    rows = engine.row_log_density(problem, eta, params.phi)
    size = sum(part.size for part in u)
    constant = problem.log_base - 0.5 * size * jnp.log(2.0 * jnp.pi)
    return jnp.sum(rows) - 0.5 * modes.dot(u, u) + constant


def conditional_modes(params: Params, problem: Problem) -> Effects:
    """The u that maximises `joint_log_density` given the parameters.

    Per grouping factor (k, levels), spherical. Differentiated by the implicit function theorem.
    """
    return _conditional_modes(_checked(params, problem), problem)


@jax.jit
def _conditional_modes(params: Params, problem: Problem) -> Effects:
    problem, params = _together(problem, params)
    return modes.conditional_modes(params, problem, zero_effects(problem))


def score_contributions(params: Params, problem: Problem) -> Params:
    """The gradient of the log-likelihood cluster by cluster.

    Clusters are the levels of the coarsest grouping factor, in which all others are nested.
    Returns `Params` of shapes (clusters, n_theta), (clusters, p), (clusters, n_phi); their sum over
    clusters is the gradient, and `.flat` (clusters, d) is what robust covariances are made of.

    Raises
    ------
    ArgumentError
        Where grouping factors cross: the likelihood is no product then.
    """
    if problem.plan.kept:
        raise ArgumentError(
            "the grouping factors cross, so that the likelihood is no product over clusters; "
            "score contributions are for one grouping factor, or for factors nested in one another"
        )
    return _score_contributions(_checked(params, problem), problem)


@jax.jit
def _score_contributions(params: Params, problem: Problem) -> Params:
    problem, params = _together(problem, params)
    coarsest = problem.plan.chain[-1]
    scores = cluster_scores(
        objective_for(problem.nAGQ),
        params,
        problem,
        zero_effects(problem),
        problem.plan.levels[coarsest],
        problem.plan.n_levels[coarsest],
    )
    return jax.vmap(problem.split)(scores)


def solve(
    problem: Problem,
    params0: Params,
    *,
    prior: Any = None,
    max_evaluations: int = MAX_EVALUATIONS,
) -> Optimum:
    """Maximum-likelihood estimates, differentiable in every array of the problem.

    One compiled program: the gradient search of `glmer` from `params0` (whose beta is refined
    first), without its second start, its derivative-free rescue and its test of separation.

    The derivative of the estimates is that of the implicit function theorem, one solve with the
    exact Hessian: `jax.grad(lambda w: solve(problem.replace(weights=w), p0).params.beta[1])` is
    the influence of every row's weight, at the cost of one backward pass. `params0` has none.

    Under `vmap` all lanes go on until the slowest has ended; `fit_many` takes finished lanes out,
    and is many times as fast for thousands of responses.

    Parameters
    ----------
    problem, params0
        From `make_problem` and `init`.
    prior
        As in `Problem`, whose own is used by default: the penalised likelihood is maximised.
    max_evaluations
        Most evaluations of value and gradient, all rounds of the search together.

    Returns
    -------
    Optimum
        `.params`, `.log_likelihood` (the prior left out), `.decrement` and `.code`. Look at the
        code: the derivative is that of an optimum, and means nothing elsewhere.

    Raises
    ------
    ArgumentError
        For parameters of other lengths, and for crossed factors whose Schur complement is not
        formed.

    Examples
    --------
    >>> from mixedlm_jax import functional as mf
    >>> cbpp = mlm.load_cbpp()
    >>> with jax.enable_x64(True):
    ...     problem = mf.make_problem("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    ...     found = mf.solve(problem, mf.init(problem))
    ...     print(round(float(found.log_likelihood), 4), int(found.code))
    -92.0263 0
    """
    if prior is not None:
        problem = problem.replace(prior=prior)
    _check_formed(problem)
    return _solve(problem, _checked(params0, problem), int(max_evaluations))


def _check_formed(problem: Problem) -> None:
    """Raise `ArgumentError` where the exact Hessian cannot be had."""
    if problem.plan.unformed is not None:
        raise ArgumentError(
            f"the grouping factors cross with {problem.plan.n_columns} random effects in the "
            "smaller ones, whose Schur complement is not formed, so that there are no exact second "
            f"derivatives to end a search with: make_problem(..., "
            f"max_corner={problem.plan.n_columns}), or let glmer fit the model"
        )


@partial(jax.jit, static_argnames="max_evaluations")
def _solve(problem: Problem, params0: Params, max_evaluations: int) -> Optimum:
    problem, params0 = _together(problem, params0)
    search = partial(maximise, max_evaluations=max_evaluations)
    return optimum(objective_for(problem.nAGQ), problem, params0, search)


def optimize(
    problem: Problem,
    optimizer: Any,
    params0: Params | None = None,
    *,
    prior: Any = None,
    steps: int = 1000,
) -> Optimum:
    """Maximise with any optax optimiser: `optimize(problem, optax.adam(0.05))`.

    For comparing optimisers, and for schedules and masks of one's own; `solve` needs tens of
    evaluations where these need hundreds.

    Parameters
    ----------
    problem
        From `make_problem`.
    optimizer
        A `GradientTransformation` of optax, those with a line search (`optax.lbfgs`) among them. It
        works on `Params`.
    params0
        Where to begin, by default `init(problem)`.
    prior
        As in `solve`.
    steps
        How many to take.

    Returns
    -------
    Optimum
        The best point on the way. Its decrement says how far from the optimum it is, in
        log-likelihood units; its code is EVALUATION_LIMIT where that is above 1e-6. Its derivative
        in the arrays of the problem is what it would be at the optimum.

    Raises
    ------
    ArgumentError
        For what is no optimiser, and as `init` and `solve` raise it.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise ArgumentError(
            f"optimizer is {optimizer!r}; give an optimiser of optax, such as optax.adam(0.05)"
        )
    if prior is not None:
        problem = problem.replace(prior=prior)
    _check_formed(problem)
    params0 = init(problem) if params0 is None else params0
    optimizer = importlib.import_module("optax").with_extra_args_support(optimizer)
    return _optimize(problem, _checked(params0, problem), optimizer, int(steps))


@partial(jax.jit, static_argnames=("optimizer", "steps"))
def _optimize(problem: Problem, params0: Params, optimizer: Any, steps: int) -> Optimum:
    problem, params0 = _together(problem, params0)
    search = partial(descend, optimizer=optimizer, steps=steps)
    return optimum(objective_for(problem.nAGQ), problem, params0, search)


def log_posterior(problem: Problem, prior: Any = None, *, joint: bool = False) -> Posterior:
    """The log-posterior density in unconstrained coordinates, to hand to a sampler.

    Parameters
    ----------
    problem
        From `make_problem`.
    prior
        As in `Problem`, whose own is used by default. It is a density of the standard deviations of
        the random effects, of their correlation matrices (uniform, if it does not say), of beta and
        of the unconstrained phi. Without any the posterior is flat in these, and need not be
        proper.
    joint
        False: the random effects are integrated out, as in `log_likelihood`. True: they are sampled
        too, with no approximation, in spherical coordinates.

    Returns
    -------
    Posterior
        A function of a `Position`, with `.unconstrain(params)` for one to start from,
        `.constrain(position)` back to parameters, and `.named(positions)` for draws by name.

    Raises
    ------
    ArgumentError
        For what is no prior.
    """
    if prior is not None:
        problem = problem.replace(prior=prior)
    (problem,) = _together(problem)
    return Posterior(problem, objective_for(problem.nAGQ), joint)
