"""Response families, and the table that names them."""

from __future__ import annotations

from mixedlm_jax.errors import ArgumentError
from mixedlm_jax.expression import suggest
from mixedlm_jax.families.base import Family
from mixedlm_jax.families.beta import Beta
from mixedlm_jax.families.betabinomial import BetaBinomial
from mixedlm_jax.families.binomial import Binomial
from mixedlm_jax.families.custom import CustomFamily
from mixedlm_jax.families.gamma import Gamma
from mixedlm_jax.families.gaussian import Gaussian
from mixedlm_jax.families.inverse_gaussian import InverseGaussian
from mixedlm_jax.families.lognormal import LogNormal
from mixedlm_jax.families.negative_binomial import NegativeBinomial, NegativeBinomial1
from mixedlm_jax.families.poisson import Poisson
from mixedlm_jax.families.quasi import QuasiFamily
from mixedlm_jax.families.student_t import StudentT
from mixedlm_jax.families.truncated import TruncatedNegativeBinomial, TruncatedPoisson
from mixedlm_jax.families.tweedie import Tweedie
from mixedlm_jax.families.zero_inflated import ZERO, with_zeros

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        Binomial,
        Poisson,
        Gaussian,
        Gamma,
        InverseGaussian,
        NegativeBinomial,
        NegativeBinomial1,
        Beta,
        BetaBinomial,
        Tweedie,
        StudentT,
        LogNormal,
        TruncatedPoisson,
        TruncatedNegativeBinomial,
    )
}


def resolve(family: Family | type[Family] | str) -> Family:
    """The family meant by an instance, a class or a name.

    Raises `ArgumentError` for anything else.
    """
    if isinstance(family, Family):
        return family
    if isinstance(family, type) and issubclass(family, Family):
        return family()  # type: ignore[call-arg]
    hint = ""
    if isinstance(family, str):
        if family.lower() in FAMILIES:
            return FAMILIES[family.lower()]()  # type: ignore[call-arg]
        classes = {member.__name__.lower(): name for name, member in FAMILIES.items()}
        meant = classes.get(family.lower().replace("_", ""))
        hint = f"; did you mean '{meant}'?" if meant else suggest(family.lower(), FAMILIES)
    raise ArgumentError(
        f"{family!r} is not a family{hint}; give an instance such as families.Binomial(), "
        f"or one of the names {', '.join(FAMILIES)}"
    )


__all__ = [
    "FAMILIES",
    "ZERO",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "CustomFamily",
    "Family",
    "Gamma",
    "Gaussian",
    "InverseGaussian",
    "LogNormal",
    "NegativeBinomial",
    "NegativeBinomial1",
    "Poisson",
    "QuasiFamily",
    "StudentT",
    "TruncatedNegativeBinomial",
    "TruncatedPoisson",
    "Tweedie",
    "resolve",
    "with_zeros",
]
