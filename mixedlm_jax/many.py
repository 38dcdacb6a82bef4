"""Many responses to one design: cut into blocks, fitted on every device there is, put together."""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mixedlm_jax.buckets import lane_slots
from mixedlm_jax.call import Call
from mixedlm_jax.checkpoint import Checkpoint, digest
from mixedlm_jax.compiled import source_version
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.design import Design, Labels
from mixedlm_jax.dispersion import coordinates, phi_names
from mixedlm_jax.errors import ArgumentError, Code, DataError, FormulaError
from mixedlm_jax.families import Family, with_zeros
from mixedlm_jax.fit import Fit
from mixedlm_jax.fits import Fits
from mixedlm_jax.fitted import Fitted
from mixedlm_jax.formula import parse
from mixedlm_jax.inference import lane_components
from mixedlm_jax.lane_fits import LaneFits, Shared, fit_lanes
from mixedlm_jax.lane_responses import CheckedResponses, check_each, check_responses
from mixedlm_jax.lane_starts import prepared_starts, rough_starts
from mixedlm_jax.lanes import AXIS, Responses, lane_slice, lane_update
from mixedlm_jax.names import component_names, theta_names
from mixedlm_jax.optimize import Search
from mixedlm_jax.problem import Params, Problem, make_problem
from mixedlm_jax.response import has_trials
from mixedlm_jax.scenario import check_takes_trials, possible_response
from mixedlm_jax.start import SCORING_ROUNDS, first_params
from mixedlm_jax.table import Table, free_name, with_columns
from mixedlm_jax.threads import single_blas_thread

# Lanes of a block, in widths of a program: what a worker takes, and a checkpoint keeps, at once.
_WIDTHS = 10
_CHOSEN_DEVICE = "jax_default_device"  # what a caller sets to have a device of their choice


def refit_lanes(
    model: Fitted,
    Y: Any,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Fits:
    """A model's design fitted to many responses, each search starting at the model's estimates.

    Y, checkpoint, progress: as in `GlmerResult.refit_many`.
    """
    kept, rows = model.labels.kept, model.labels.index
    y, index, own_rows = _lanes(Y)
    if y.shape[1] == len(kept):
        _check_rows(own_rows, rows)
        y = y[:, kept]
    elif y.shape[1] == int(kept.sum()):
        _check_rows(own_rows, rows[kept])
    else:
        used = "" if np.all(kept) else f", or of the {int(kept.sum())} rows used"
        raise ArgumentError(
            f"the responses have {y.shape[1]} rows; give one for each of the {len(kept)} rows of "
            f"the data{used}"
        )
    y = _successes(model, y)
    checked = check_responses(model.design, model.family, y, index.to_numpy())
    start = _AtModel(model.family, model.fit)
    return _fits(
        model.call, model.design, model.labels, checked, index, start, checkpoint, progress
    )


def fits_of(
    model: Fitted,
    checked: CheckedResponses,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Fits:
    """A model fitted to lanes that are ready, each search starting at the model's estimates."""
    start = _AtModel(model.family, model.fit)
    index = pd.RangeIndex(len(checked.usable))
    return _fits(
        model.call, model.design, model.labels, checked, index, start, checkpoint, progress
    )


def as_fits(model: Fitted) -> Fits:
    """A model as the only one of many fits."""
    fit = model.fit
    separated = np.isin(np.arange(len(fit.beta)), fit.verdict.separated)
    alone = LaneFits(
        theta=fit.theta,
        beta=fit.beta,
        phi=fit.phi,
        vcov=fit.vcov,
        log_likelihood=np.asarray(fit.log_likelihood),
        ok=np.asarray(fit.verdict.ok),
        code=np.asarray(fit.verdict.code, np.int8),
        separated=separated,
        rescued=np.asarray(False),
    )
    with jax.enable_x64(True):
        given = make_problem(lane_slots(model.design).of(model.design), model.family)
        found = LaneFits(*(np.asarray(part)[None] for part in alone))
        nobs = np.array([model.nobs])
        return _record(model.call, model.design, model.labels, given, found, nobs, pd.RangeIndex(1))


def fit_lanes_of(
    formula: str,
    data: Any,
    responses: Any,
    trials: Any,
    arguments: Mapping[str, Any],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Fits:
    """A one-sided formula fitted to many responses; all else as in `replicates.fit_many`.

    arguments: of `Call`, besides formula and data.
    """
    if not isinstance(formula, str) or not formula.lstrip().startswith("~"):
        raise FormulaError(
            f"fit_many takes a one-sided formula such as '~ x + (1 | g)', found {formula!r}: the "
            "responses are an argument of their own"
        )
    if isinstance(data, (list, tuple)):
        raise ArgumentError(
            f"fit_many takes one frame of predictors, found a {type(data).__name__}: for data sets "
            "of different predictors fit one by glmer and give model.refit_many([frame, ...])"
        )
    table = Table(data)
    y, index, own_rows = _lanes(responses)
    if y.shape[1] != len(table):
        raise ArgumentError(
            f"the responses have {y.shape[1]} rows and the data {len(table)}; give one row of "
            "responses for each row of the data, one column for each fit"
        )
    _check_rows(own_rows, table.index)
    response, out_of = free_name("response", table), free_name("trials", table)
    left, columns, most = response, {}, np.ones(len(table))
    if trials is not None:
        check_takes_trials(arguments["family"])
        most = table.numbers("trials", trials)
        left, columns[out_of] = f"{response} / {out_of}", most
    inflated = with_zeros(arguments["family"], arguments["ziformula"] is not None)
    frame = with_columns(table, columns | {response: _representative(y, most, inflated)})
    call = Call(parse(f"{left} {formula}"), frame, **arguments)
    try:
        design, labels = call.build()
    except DataError:  # of a response, it names the lane
        check_each(call.family, y, ~np.isnan(y), most, index.to_numpy())
        raise
    checked = check_responses(design, call.family, y[:, labels.kept], index.to_numpy())
    return _fits(call, design, labels, checked, index, _Rough(), checkpoint, progress)


def _lanes(Y: Any) -> tuple[np.ndarray, pd.Index, pd.Index | None]:
    """Responses (lanes, rows), what the lanes and the rows are called, from rows x lanes."""
    rows = Y.index if isinstance(Y, pd.DataFrame) else None
    if hasattr(Y, "columns"):  # a frame, of whatever library
        Y = with_columns(Table(Y, "responses"), {})
    try:
        if isinstance(Y, pd.DataFrame):
            array = Y.to_numpy(dtype=float, na_value=np.nan)
        else:
            array = np.asarray(Y).astype(float)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"the responses are no numbers: {error}") from error
    if array.ndim != 2 or 0 in array.shape:
        raise ArgumentError(
            f"the responses have shape {array.shape}; give rows x fits, a column for each fit"
        )
    index = Y.columns if isinstance(Y, pd.DataFrame) else pd.RangeIndex(array.shape[1])
    return np.ascontiguousarray(array.T), index, rows


def _check_rows(found: pd.Index | None, expected: pd.Index) -> None:
    if found is not None and not found.equals(expected):
        raise ArgumentError(
            "the responses are a frame whose index differs from the data's: give .to_numpy() to "
            "match by position, or reindex it"
        )


def _representative(y: np.ndarray, trials: np.ndarray, family: Family) -> np.ndarray:
    """A response to build the design with (rows,): the lane that varies and misses the least.

    Where none varies, and none can be fitted, one that the family can have.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a lane without any value has no extent
        share = y / np.where(trials > 0.0, trials, 1.0)
        varied = np.nanmax(share, axis=1) > np.nanmin(share, axis=1)
    if not np.any(varied):
        return possible_response(family, np.where(trials > 0.0, trials, 1.0))
    score = np.where(varied, np.sum(~np.isnan(y), axis=1), -1)
    chosen = y[int(np.argmax(score))].copy()
    first = np.argmax(~np.isnan(y), axis=0)
    return np.where(np.isnan(chosen), y[first, np.arange(y.shape[1])], chosen)


def _successes(model: Fitted, y: np.ndarray) -> np.ndarray:
    """Numbers of successes where a model's response is a bare proportion."""
    trials = model.design.trials
    named = has_trials(model.call.formula.response, model.family)
    if not model.family.takes_trials or named or np.all(trials == 1.0):
        return y
    return np.round(y * trials)


class _AtModel(NamedTuple):
    """Each lane starts where a model's estimates lead with its own response."""

    family: Family
    fit: Fit

    def __call__(self, shared: Shared, responses: Responses) -> Search:
        fit, count = self.fit, len(responses.y)
        given = {"theta": fit.theta, "beta": fit.beta, "phi": fit.phi}
        if fit.verdict.singular:  # a search cannot leave theta = 0, where it is stationary
            del given["theta"]
        if not np.all(np.isfinite(coordinates(self.family, shared.given.phi_matrices, fit.phi))):
            del given["phi"]
        first = first_params(shared.given, given)
        first = first._replace(beta=np.linalg.solve(shared.back, first.beta))
        return prepared_starts(
            shared.objective,
            shared.stepping,
            responses,
            Params(*(np.repeat(part[None], count, axis=0) for part in first)),
            rounds=SCORING_ROUNDS,
            width=shared.width,
            mesh=shared.mesh,
        )

    @property
    def described(self) -> tuple[Any, ...]:
        """What the starts depend on."""
        return ("model", self.fit.verdict.singular, self.fit.theta, self.fit.beta, self.fit.phi)


class _Rough(NamedTuple):
    """Each lane starts at rough values of its own."""

    def __call__(self, shared: Shared, responses: Responses) -> Search:
        return rough_starts(
            shared.objective, shared.stepping, responses, width=shared.width, mesh=shared.mesh
        )

    @property
    def described(self) -> tuple[Any, ...]:
        """What the starts depend on."""
        return ("rough",)


def _fits(
    call: Call,
    design: Design,
    labels: Labels,
    checked: CheckedResponses,
    index: pd.Index,
    start: _AtModel | _Rough,
    folder: str | os.PathLike[str] | None,
    progress: bool | None,
) -> Fits:
    if call.family.is_quasi:
        raise ArgumentError(
            "many fits at once are by maximum likelihood, and a quasi family has none: give a "
            "family with a distribution"
        )
    control = call.control or GlmerControl()
    with single_blas_thread(), jax.enable_x64(True):
        given = call.problem(lane_slots(design).of(design))
        lanes = int(np.sum(checked.usable))
        shared = Shared.of(given, int(call.nAGQ), control, _mesh(), max(lanes, 1))
        run = _Run(shared, checked.responses, checked.usable, start, folder, progress)
        found = run.results()
        return _record(call, design, labels, given, found, checked.nobs, index)


def _record(
    call: Call,
    design: Design,
    labels: Labels,
    problem: Problem,
    found: LaneFits,
    nobs: np.ndarray,
    index: pd.Index,
) -> Fits:
    """What was found, with names and with the components of the random effects."""
    phi = coordinates(call.family, problem.phi_matrices, found.phi)
    return Fits(
        index=index,
        fixed=labels.fixed,
        theta_names=tuple(theta_names(design, labels)),
        phi_names=phi_names(call.family, labels.parts),
        component_names=tuple(component_names(design, labels)),
        components=np.array(lane_components(problem, found.theta, phi)),
        beta=found.beta,
        theta=found.theta,
        phi=found.phi,
        vcov=found.vcov,
        logLik=found.log_likelihood,
        ok=found.ok,
        code=found.code,
        separated=found.separated,
        rescued=found.rescued,
        nobs=nobs,
    )


def _mesh() -> Mesh | None:
    """All local devices, where there are several and the caller has chosen none of them."""
    devices = jax.local_devices()
    if len(devices) == 1 or getattr(jax.config, _CHOSEN_DEVICE) is not None:
        return None
    return Mesh(np.array(devices), (AXIS,))


def _workers(mesh: Mesh | None) -> int:
    """Threads that drive programs: one a core of a processor, one for whatever else there is."""
    if mesh is not None or jax.devices()[0].platform != "cpu":
        return 1
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


@dataclass(frozen=True, eq=False)
class _Run:
    """Blocks of lanes and who fits them.

    Processes of one `jax.distributed` run take every so many-th block each and exchange what they
    found at the end.
    """

    shared: Shared
    responses: Responses
    usable: np.ndarray
    start: _AtModel | _Rough
    folder: str | os.PathLike[str] | None
    progress: bool | None

    def results(self) -> LaneFits:
        """The fits of all lanes; nan for those that cannot be fitted."""
        lanes = np.flatnonzero(self.usable)
        size = _WIDTHS * self.shared.width
        blocks = [lanes[at : at + size] for at in range(0, len(lanes), size)]
        mine = range(jax.process_index(), len(blocks), jax.process_count())
        kept = None if self.folder is None else Checkpoint(self.folder, self._digest(size))
        whole = _blank(len(self.usable), self.shared.given)
        hidden = None if self.progress is None else not self.progress
        workers = _workers(self.shared.mesh)
        tqdm = importlib.import_module("tqdm").tqdm  # slow to import
        pool = ThreadPoolExecutor(workers)
        try:
            with tqdm(total=sum(len(blocks[b]) for b in mine), unit=" fits", disable=hidden) as bar:
                failed = 0
                found = pool.map(lambda number: self._block(number, blocks[number], kept), mine)
                for number, fits in zip(mine, found, strict=True):
                    lane_update(whole, blocks[number], fits)
                    failed += int(np.sum(~fits.ok))
                    bar.set_postfix_str(f"{failed} not ok", refresh=False)
                    bar.update(len(blocks[number]))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error the blocks that wait are not begun
        return whole if jax.process_count() == 1 else _exchanged(whole, [blocks[b] for b in mine])

    def _block(self, number: int, lanes: np.ndarray, kept: Checkpoint | None) -> LaneFits:
        if kept is not None and (stored := kept.read(number)) is not None:
            return LaneFits(**stored)
        with jax.enable_x64(True):  # which holds in one thread only
            responses = lane_slice(self.responses, lanes)
            fits = fit_lanes(self.shared, responses, self.start(self.shared, responses))
        if kept is not None:
            kept.write(number, fits._asdict())
        return fits

    def _digest(self, size: int) -> str:
        """All that the results depend on, and how they are cut."""
        given = self.shared.given
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves((given, self.responses))]
        return digest(
            [
                source_version(),
                size,
                self.shared.nAGQ,
                self.shared.control,
                _described(given.family),
                given.terms,
                given.weights_type,
                *self.start.described,
                *arrays,
            ]
        )


def _described(family: Family) -> str:
    """A family in words that are the same in every process, its own functions by their code."""
    functions = [part for part in vars(family).values() if hasattr(part, "__code__")]
    codes = [(part.__code__.co_code.hex(), part.__code__.co_names) for part in functions]
    constants = [re.sub("0x[0-9a-f]+", "", repr(part.__code__.co_consts)) for part in functions]
    return f"{family!r} {codes} {constants}"


def _blank(count: int, problem: Problem) -> LaneFits:
    q, p, r = problem.n_theta, problem.X.shape[1], problem.n_phi
    return LaneFits(
        theta=np.full((count, q), np.nan),
        beta=np.full((count, p), np.nan),
        phi=np.full((count, r), np.nan),
        vcov=np.full((count, q + p + r, q + p + r), np.nan),
        log_likelihood=np.full(count, np.nan),
        ok=np.zeros(count, bool),
        code=np.full(count, Code.CONSTANT, np.int8),
        separated=np.zeros((count, p), bool),
        rescued=np.zeros(count, bool),
    )


def _exchanged(own: LaneFits, blocks: list[np.ndarray]) -> LaneFits:
    """The fits of all processes, each of which has filled in its own blocks."""
    filled_in = np.zeros(len(own.ok), bool)
    for lanes in blocks:
        filled_in[lanes] = True
    everyone, theirs = multihost_utils.process_allgather((own, filled_in))
    owner = np.argmax(theirs, axis=0)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[owner, np.arange(len(owner))], everyone)
