"""What a model was asked for: the arguments of `glmer`, checked, and the way from them to a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

import jax

from mixedlm_jax.buckets import padded, row_order
from mixedlm_jax.control import GlmerControl
from mixedlm_jax.design import Design, Labels, build
from mixedlm_jax.dispersion import DISPERSION
from mixedlm_jax.errors import ArgumentError, FormulaError
from mixedlm_jax.expression import suggest
from mixedlm_jax.families import ZERO, Family, resolve, with_zeros
from mixedlm_jax.fit import Fit, fit_problem, trimmed
from mixedlm_jax.formula import Formula, parse_part
from mixedlm_jax.identification import check_identified
from mixedlm_jax.pearson import with_dispersion
from mixedlm_jax.placement import let_go
from mixedlm_jax.plan import in_blocks
from mixedlm_jax.priors import as_prior
from mixedlm_jax.problem import Problem, make_problem
from mixedlm_jax.progress import check_verbose, progress
from mixedlm_jax.revision import revise
from mixedlm_jax.threads import single_blas_thread


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of `glmer` that say what the model is; fields as there.

    data is the caller's frame itself, not a copy.

    Raises
    ------
    ArgumentError
        For an nAGQ, a control or a prior outside what they may be, and for a formula of zeros with
        a family that cannot have them.
    FormulaError
        For a ziformula or dispformula that is not one-sided.
    """

    formula: Formula
    data: Any
    family: Family
    nAGQ: int = 1
    weights: Any = None
    weights_type: str = "prior"
    offset: Any = None
    na_action: str = "omit"
    contrasts: Mapping[str, str] | None = None
    control: GlmerControl | None = None
    ziformula: str | None = None
    dispformula: str | None = None
    prior: Any = None

    def __post_init__(self) -> None:
        _check_nAGQ(self.nAGQ)
        _check_control(self.control)
        written = {
            ZERO: (self.ziformula, "ziformula"),
            DISPERSION: (self.dispformula, "dispformula"),
        }
        parts = {name: parse_part(*given) for name, given in written.items()}
        if self.dispformula is not None and parts[DISPERSION] is None:
            raise FormulaError(
                f"dispformula is {self.dispformula!r}, which leaves no dispersion; give '~ 1' or a "
                "formula of predictors"
            )
        found = tuple((name, terms) for name, terms in parts.items() if terms is not None)
        if found != self.formula.parts:
            object.__setattr__(self, "formula", replace(self.formula, parts=found))
        object.__setattr__(self, "prior", as_prior(self.prior))
        object.__setattr__(self, "family", with_zeros(self.family, parts[ZERO] is not None))

    @property
    def described_weights(self) -> str | None:
        """Name and type of the weights, None where none were given."""
        if self.weights is None:
            return None
        given = self.weights if isinstance(self.weights, str) else "given as an array"
        return f"{given} ({self.weights_type})"

    def revised(self, formula: str | None, data: Any, arguments: Mapping[str, Any]) -> Call:
        """The call with another formula (as in `revise`), data and arguments; None leaves them.

        Raises `ArgumentError` for an argument that `glmer` does not have.
        """
        changes = dict(arguments)
        names = [field.name for field in fields(self) if field.name not in ("formula", "data")]
        unknown = [name for name in changes if name not in names]
        if unknown:
            raise ArgumentError(
                f"update has no argument {unknown[0]!r}{suggest(unknown[0], names)}; it has "
                f"formula, data, start, verbose, {', '.join(names)}"
            )
        if formula is not None:
            changes["formula"] = revise(self.formula, formula)
        if data is not None:
            changes["data"] = data
        if "family" in changes:
            changes["family"] = resolve(changes["family"])
        return replace(self, **changes)

    def build(self) -> tuple[Design, Labels]:
        """The design the call describes, if its random effects can be told apart."""
        design, labels = build(
            self.formula,
            self.data,
            self.family,
            weights=self.weights,
            weights_type=self.weights_type,
            offset=self.offset,
            na_action=self.na_action,
            contrasts=self.contrasts,
        )
        check_identified(design, labels, self.family)
        return design, labels

    def problem(self, design: Design) -> Problem:
        """The problem of a `padded` design, with the prior."""
        control = self.control or GlmerControl()
        made = make_problem(
            design,
            self.family,
            information=control.information,
            crossing=control.crossing,
        )
        # an accelerator wants all rows at once, and has memory that is faster than any cache
        plan = in_blocks(made.plan) if jax.default_backend() == "cpu" else made.plan
        return made.replace(plan=plan, prior=self.prior)

    def fit(
        self,
        design: Design,
        *,
        start: Mapping[str, Any] | None = None,
        verbose: int | None = None,
    ) -> Fit:
        """Maximise the likelihood of a design; start and verbose as in `glmer`."""
        control = self.control or GlmerControl()
        start = _start(start)
        check_verbose(verbose)
        order = row_order(design)
        with single_blas_thread(), jax.enable_x64(True):
            fit = self._fit_padded(padded(design, order), control, start, verbose)
            let_go()  # of the padded arrays, which nobody holds any more
        fit = trimmed(fit, design, order)
        return with_dispersion(design, self.family, fit) if self.family.is_quasi else fit

    def _fit_padded(
        self,
        design: Design,
        control: GlmerControl,
        start: dict[str, Any] | None,
        verbose: int | None,
    ) -> Fit:
        problem = self.problem(design)
        with progress(verbose, lambda: float(problem.log_base)) as watch:
            return fit_problem(
                problem, nAGQ=int(self.nAGQ), control=control, start=start, watch=watch
            )


def _check_nAGQ(nAGQ: int) -> None:
    if isinstance(nAGQ, bool) or not isinstance(nAGQ, Integral) or nAGQ < 0:
        raise ArgumentError(
            f"nAGQ is {nAGQ!r}; give 1 for the Laplace approximation, 0 to find the fixed effects "
            "with the modes, or a number of quadrature nodes from 2 (one grouping factor)"
        )


def _check_control(control: GlmerControl | None) -> None:
    if control is not None and not isinstance(control, GlmerControl):
        raise ArgumentError(
            f"control is a {type(control).__name__}; give a GlmerControl, for example "
            "control=GlmerControl(maxfun=50000)"
        )


def _start(start: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Start values under the engine's names: lme4 calls beta `fixef`."""
    if start is None:
        return None
    if not isinstance(start, Mapping):
        raise ArgumentError(
            f"start is a {type(start).__name__}; give a dict such as {{'theta': ..., 'beta': ...}}"
        )
    given = {"beta" if name == "fixef" else name: values for name, values in start.items()}
    if len(given) < len(start):
        raise ArgumentError("start has both 'beta' and 'fixef', which are one: give one of them")
    return given
