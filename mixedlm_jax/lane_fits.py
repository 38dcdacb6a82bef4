"""From the responses of many lanes to their fits: search, exact Hessian, verdict, rescue.

Arrays in, arrays out. A lane whose Hessian leaves no question is judged with all others at once;
one on a boundary, at a limit or in doubt is judged as a single fit is (`verdict.judge`), and one
that is no optimum is fitted anew by the path of a single fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mixedlm_jax.climb import Outcome
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.covariance import STRUCTURES
from mixedlm_jax.errors import ArgumentError, Code, FitError
from mixedlm_jax.fit import conditioned, fit_problem, reported_covariance
from mixedlm_jax.lanes import (
    ARRIVED,
    Ending,
    Responses,
    lane_endings,
    lane_slice,
    lane_update,
    search_lanes,
    width_of,
)
from mixedlm_jax.objective import Objective, objective_for
from mixedlm_jax.optimize import Search
from mixedlm_jax.plan import with_rounds
from mixedlm_jax.problem import Problem
from mixedlm_jax.search import ODD_SD
from mixedlm_jax.verdict import SINGULAR, SUSPECT_CONDITION, Verdict, separated_columns

# Log-likelihood units that the exact Hessian may still promise, and rounds of Newton steps.
_SETTLED = 1e-8
_POLISHED = 1e-11
_ROUNDS = 3
_SAME = 1e-9  # two log-likelihoods that differ by no more are equally good


class LaneFits(NamedTuple):
    """Fits of many lanes (NumPy), one row a lane.

    vcov: of (theta, beta, phi) as `Fit.vcov`. code: int8, a `Code`. separated: (lanes, p) bool,
    columns of X whose coefficient grows without bound. rescued: fitted by the single-fit path.
    """

    theta: np.ndarray
    beta: np.ndarray
    phi: np.ndarray
    vcov: np.ndarray
    log_likelihood: np.ndarray
    ok: np.ndarray
    code: np.ndarray
    separated: np.ndarray
    rescued: np.ndarray


@dataclass(frozen=True, eq=False)
class Shared:
    """What all lanes have in common.

    given, problem: the problem of the design, with X as it was given and as it is searched over.
    back: takes the beta that is searched over to the one that is reported (p, p). stepping: the
    problem with rows in rounds, if they are: sums along an axis are quick, their second derivatives
    are not. mesh: the devices that lanes are divided among, None for the one device there is.
    """

    nAGQ: int
    given: Problem
    problem: Problem
    back: np.ndarray
    stepping: Problem
    control: GlmerControl
    mesh: Mesh | None = None
    most: int = 2**30

    @classmethod
    def of(
        cls,
        given: Problem,
        nAGQ: int,
        control: GlmerControl,
        mesh: Mesh | None = None,
        most: int = 2**30,
    ) -> Shared:
        """What lanes of a problem share. Raises `ArgumentError` for an nAGQ it does not allow."""
        objective_for(nAGQ).check(given)
        if given.plan.unformed is not None:
            raise ArgumentError(
                f"the crossed factors leave a Schur complement of {given.plan.n_columns} columns, "
                "which is not formed; many fits at once need it formed: give "
                f"control=GlmerControl(max_corner={given.plan.n_columns}), or fit one by one"
            )
        problem, back = conditioned(given)
        stepping = problem.replace(plan=with_rounds(problem.plan))
        return cls(nAGQ, given, problem, back, stepping, control, mesh, most)

    @property
    def objective(self) -> Objective:
        """What every lane minimises."""
        return objective_for(self.nAGQ)

    @property
    def width(self) -> int:
        """How many lanes take a step together."""
        devices = 1 if self.mesh is None else self.mesh.size
        own = 1 << (-(-self.most // devices) - 1).bit_length()
        return devices * min(own, width_of(self.objective, self.problem))


def fit_lanes(shared: Shared, responses: Responses, searches: Search) -> LaneFits:
    """Fit every lane. Call it with JAX in float64.

    responses, searches: NumPy arrays, one row a lane; the searches, each before its first
    evaluation, are changed in place.
    """
    objective, problem, mesh, width = shared.objective, shared.problem, shared.mesh, shared.width
    given_responses, responses = responses, _in_searched_basis(responses, shared.back)
    placed = jax.device_put(problem) if mesh is None else problem
    stepping = jax.device_put(shared.stepping) if mesh is None else shared.stepping

    def search(responses: Responses, searches: Search, tol: float) -> None:
        search_lanes(objective, stepping, responses, searches, width=width, tol=tol, mesh=mesh)

    def end(responses: Responses, searches: Search) -> Ending:
        return lane_endings(
            objective, placed, shared.back, responses, searches, width=width, mesh=mesh
        )

    search(responses, searches, ARRIVED)
    found = end(responses, searches)
    for _ in range(_ROUNDS):
        lanes = np.flatnonzero(np.isfinite(found.gain) & ~(found.gain < _SETTLED))
        if not len(lanes):
            break
        ahead = _newton(lane_slice(searches, lanes), lane_slice(found, lanes))
        search(lane_slice(responses, lanes), ahead, _POLISHED)
        lane_update(searches, lanes, ahead)
        lane_update(found, lanes, end(lane_slice(responses, lanes), ahead))

    lanes = _on_boundary(problem, responses, searches, found, search)
    if len(lanes):
        lane_update(found, lanes, end(lane_slice(responses, lanes), lane_slice(searches, lanes)))
    judged = _judge_clear(problem, found)
    bounded = _is_bounded(problem)
    for lane in map(int, np.flatnonzero(~judged.ok)):
        own = lane_slice(responses, lane).of(problem)

        def given(lane: int = lane) -> Problem:
            return lane_slice(given_responses, lane).of(shared.given)

        ended, known = lane_slice(searches, lane), lane_slice(found, lane)
        _judge_one(shared, own, given, ended, known, judged, lane)
        odd = bounded and not found.longest[lane] <= ODD_SD
        if odd or (not judged.ok[lane] and judged.code[lane] != Code.SEPARATED):
            _rescue(shared, given(), judged, lane)
    return judged


def _in_searched_basis(responses: Responses, back: np.ndarray) -> Responses:
    """Responses whose own rows of X, if they have any, go with the beta that is searched over."""
    rows = responses.rows
    return responses if rows is None else responses._replace(rows=rows._replace(X=rows.X @ back))


def _newton(searches: Search, found: Ending) -> Search:
    """The same points with the exact Hessian as their metric."""
    return searches._replace(
        inverse=found.metric, gain=found.gain, length=np.ones_like(searches.length)
    )


def _on_boundary(
    problem: Problem,
    responses: Responses,
    searches: Search,
    found: Ending,
    search: Callable[[Responses, Search, float], None],
) -> np.ndarray:
    """Set negligible columns of Lambda to zero, where the likelihood is as good there.

    Returns the lanes that were changed, in `searches`.
    """
    vanishing = [np.zeros((len(searches.x), 0), bool)]
    at = 0
    for term in problem.terms:
        k = len(term.columns)
        small = found.lengths[:, at : at + k] < SINGULAR
        # parameters that belong to no column stay
        padded = np.append(small, np.zeros((len(small), 1), bool), axis=1)
        vanishing.append(padded[:, STRUCTURES[term.structure].columns(k)])
        at += k
    zero = np.concatenate(vanishing, axis=1)
    q = zero.shape[1]
    lanes = np.flatnonzero(np.any(zero & (searches.x[:, :q] != 0.0), axis=1))
    if not len(lanes):
        return lanes
    x = searches.x[lanes].copy()
    x[:, :q] = np.where(zero[lanes], 0.0, x[:, :q])
    before = lane_slice(searches, lanes)
    moved = jax.tree.map(lambda leaf: leaf.copy(), before._replace(x=x, **_unevaluated(before)))
    moved.inverse[:] = 0.0  # evaluated, and no step taken from there
    search(lane_slice(responses, lanes), moved, np.inf)
    better = moved.value <= before.value + _SAME
    lanes = lanes[better]
    moved = moved._replace(inverse=before.inverse)
    lane_update(searches, lanes, lane_slice(moved, better))
    return lanes


def _unevaluated(searches: Search) -> dict[str, np.ndarray]:
    return {
        "value": np.full_like(searches.value, np.inf),
        "gradient": np.zeros_like(searches.gradient),
        "gain": np.full_like(searches.gain, np.inf),
        "length": np.ones_like(searches.length),
    }


def _is_bounded(problem: Problem) -> bool:
    bounds = problem.family.bounds(np.asarray(problem.trials))
    return any(bool(np.any(np.isfinite(bound))) for bound in bounds)


def _judge_clear(problem: Problem, found: Ending) -> LaneFits:
    """All lanes; those that are not beyond doubt are not ok yet."""
    clear = (
        (found.gain < _SETTLED)
        & (found.condition < SUSPECT_CONDITION)
        & np.all(found.sizes >= SINGULAR, axis=1)
        & ~found.reached
        & ~_near_limit(problem, found.phi)
    )
    if _is_bounded(problem):
        clear &= found.longest <= ODD_SD
    count, p = found.beta.shape
    return LaneFits(
        theta=found.theta,
        beta=found.beta,
        phi=found.phi,
        vcov=found.vcov,
        log_likelihood=found.log_likelihood,
        ok=clear,
        code=np.where(clear, Code.CONVERGED, Code.NOT_AT_OPTIMUM).astype(np.int8),
        separated=np.zeros((count, p), bool),
        rescued=np.zeros(count, bool),
    )


def _near_limit(problem: Problem, phi: np.ndarray) -> np.ndarray:
    """Which lanes may have a dispersion parameter at its limit (lanes,)."""
    near = np.zeros(len(phi), bool)
    at = 0
    for name, matrix in zip(problem.family.dispersion_names, problem.phi_matrices, strict=True):
        low, high = problem.family.parameters[name].usual
        if matrix is None:
            near |= ~((low <= phi[:, at]) & (phi[:, at] <= high))
            at += 1
        else:
            near |= np.isfinite(high) or low > 0
            at += matrix.shape[1]
    return near


def _judge_one(
    shared: Shared,
    problem: Problem,
    given: Callable[[], Problem],
    search: Search,
    found: Ending,
    judged: LaneFits,
    lane: int,
) -> None:
    """The verdict on one lane, as on a single fit, put into its place."""
    at, factors = 0, tuple(np.zeros((k, k)) for k in problem.plan.n_effects)
    for term in problem.terms:  # the diagonal is all that a boundary is judged by
        k, columns = len(term.columns), list(term.columns)
        rms = problem.effect_sizes(term)
        sizes = found.sizes[at : at + k] / np.where(rms > 0, rms, 1.0)
        factors[term.factor][columns, columns] = sizes
        at += k
    stopped = "converged" if search.gain < _SETTLED else "stalled"
    outcome = Outcome(problem, search, found.hessian, factors, stopped, 0, ())
    verdict = outcome.verdict()
    doubtful = not verdict.ok or found.reached or not found.condition < SUSPECT_CONDITION
    if doubtful and shared.control.check_separation:
        verdict = outcome.verdict(separated_columns(given()))
    judged.vcov[lane] = reported_covariance(
        shared.objective,
        outcome,
        found.signs,
        found.beta_information,
        found.phi_slope,
        shared.back,
    )
    _put_verdict(judged, lane, verdict)


def _put_verdict(judged: LaneFits, lane: int, verdict: Verdict) -> None:
    judged.ok[lane] = verdict.ok
    judged.code[lane] = verdict.code
    judged.separated[lane] = np.isin(np.arange(judged.separated.shape[1]), verdict.separated)


def _rescue(shared: Shared, given: Problem, judged: LaneFits, lane: int) -> None:
    """Fit a lane by the path of a single fit, and keep that fit where it is the better one."""
    judged.rescued[lane] = True
    try:
        fit = fit_problem(given, nAGQ=shared.nAGQ, control=shared.control)
    except FitError:
        if not np.isfinite(judged.log_likelihood[lane]):
            judged.code[lane] = Code.NOT_FINITE
        return
    gained = fit.log_likelihood - judged.log_likelihood[lane]
    if gained < -_SAME or (judged.ok[lane] and not gained > _SAME):
        return
    for name in ("theta", "beta", "phi", "vcov", "log_likelihood"):
        getattr(judged, name)[lane] = getattr(fit, name)
    _put_verdict(judged, lane, fit.verdict)
