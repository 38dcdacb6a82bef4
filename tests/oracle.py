"""The Laplace likelihood of a GLMM written densely in NumPy and SciPy, as a yardstick.

Shares no code with the package: densities and their derivatives are closed forms, every matrix is
dense, the conditional modes are found by Newton steps on the whole system. Slow, and meant to be.

    eta = X beta + offset + s Z Lambda u,          s = sigma for the Gaussian, 1 otherwise
    g(u) = - sum_i log f(y_i | eta_i) + u'u / 2,   u_hat = argmin g
    H = I + A' W A,  A = s Z Lambda,  W = diag(- d2 log f / d eta2) at u_hat
    log L = - g(u_hat) - log|H| / 2
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from scipy import linalg, special, stats

Array = np.ndarray


# ----------------------------------------------------------------------------------------------
# Densities


@dataclass(frozen=True)
class Density:
    """log f of every row and its derivatives in eta; `expected` is the Fisher information."""

    log_f: Array
    score: Array
    observed: Array  # - d2 log f / d eta2
    expected: Array


@dataclass(frozen=True)
class _Probability:
    """log p and log q = log(1 - p) with their first two derivatives in eta."""

    log_p: Array
    log_q: Array
    dlog_p: Array
    dlog_q: Array
    d2log_p: Array
    d2log_q: Array


def _logit(eta: Array) -> _Probability:
    p, q = special.expit(eta), special.expit(-eta)
    return _Probability(-np.logaddexp(0, -eta), -np.logaddexp(0, eta), q, -p, -p * q, -p * q)


def _probit(eta: Array) -> _Probability:
    log_p, log_q = special.log_ndtr(eta), special.log_ndtr(-eta)
    log_phi = -(eta**2) / 2 - np.log(2 * np.pi) / 2
    r, s = np.exp(log_phi - log_p), np.exp(log_phi - log_q)
    return _Probability(log_p, log_q, r, -s, -r * (eta + r), -s * (s - eta))


def _cloglog(eta: Array) -> _Probability:
    t = np.exp(eta)
    p = -np.expm1(-t)
    r = t * np.exp(-t) / p
    return _Probability(np.log(p), -t, r, -t, r * (1 - t / p), -t)


def _cauchit(eta: Array) -> _Probability:
    p, q = np.arctan2(1, -eta) / np.pi, np.arctan2(1, eta) / np.pi
    d = 1 / (np.pi * (1 + eta**2))
    d2 = -2 * eta * d / (1 + eta**2)
    return _Probability(
        np.log(p), np.log(q), d / p, -d / q, d2 / p - (d / p) ** 2, -d2 / q - (d / q) ** 2
    )


def _log(eta: Array) -> _Probability:
    q = np.where(eta < 0, -np.expm1(eta), np.nan)
    p = np.exp(eta)
    one, zero = np.ones_like(eta), np.zeros_like(eta)
    return _Probability(eta, np.log(q), one, -p / q, zero, -p / q**2)


_BINOMIAL = {
    "logit": _logit,
    "probit": _probit,
    "cloglog": _cloglog,
    "cauchit": _cauchit,
    "log": _log,
}


def _binomial(link: str, y: Array, trials: Array, weights: Array, eta: Array) -> Density:
    pr = _BINOMIAL[link](eta)
    failures = trials - y
    constant = special.gammaln(trials + 1) - special.gammaln(y + 1) - special.gammaln(failures + 1)
    p, q = np.exp(pr.log_p), np.exp(pr.log_q)
    return Density(
        weights * (constant + y * pr.log_p + failures * pr.log_q),
        weights * (y * pr.dlog_p + failures * pr.dlog_q),
        -weights * (y * pr.d2log_p + failures * pr.d2log_q),
        weights * trials * (p * pr.dlog_p**2 + q * pr.dlog_q**2),
    )


def _poisson(link: str, y: Array, weights: Array, eta: Array) -> Density:
    if link == "log":
        mu = np.exp(eta)
        log_f, score, observed, expected = y * eta - mu, y - mu, mu, mu
    elif link == "sqrt":
        eta = np.where(eta > 0, eta, np.nan)
        log_f, score = 2 * y * np.log(eta) - eta**2, 2 * y / eta - 2 * eta
        observed, expected = 2 * y / eta**2 + 2, np.full_like(eta, 4.0)
    elif link == "identity":
        eta = np.where(eta > 0, eta, np.nan)
        log_f, score = y * np.log(eta) - eta, y / eta - 1
        observed, expected = y / eta**2, 1 / eta
    else:
        raise ValueError(f"no poisson density with link {link!r}")
    return Density(
        weights * (log_f - special.gammaln(y + 1)),
        weights * score,
        weights * observed,
        weights * expected,
    )


def _gaussian(
    link: str, y: Array, weights: Array, eta: Array, sigma: float, weights_type: str
) -> Density:
    if link == "identity":
        mu, d, d2 = eta, np.ones_like(eta), np.zeros_like(eta)
    elif link == "log":
        mu = d = d2 = np.exp(eta)
    else:
        raise ValueError(f"no gaussian density with link {link!r}")
    scale = {"prior": np.log(weights), "frequency": np.zeros_like(weights)}[weights_type]
    times = {"prior": np.ones_like(weights), "frequency": weights}[weights_type]
    precision = weights / sigma**2
    constant = times * (scale - np.log(2 * np.pi * sigma**2)) / 2
    return Density(
        constant - precision * (y - mu) ** 2 / 2,
        precision * (y - mu) * d,
        precision * (d**2 - (y - mu) * d2),
        precision * d**2,
    )


@dataclass(frozen=True)
class _InMean:
    """log f of every row, its first two derivatives in mu, and the Fisher information of mu."""

    log_f: Array
    first: Array
    second: Array
    expected: Array | float = np.nan  # nan: no closed form


def _gamma(y: Array, mu: Array, rest: Array, m: Array, w: Array, shape: Array) -> _InMean:
    a = w * shape
    log_f = stats.gamma.logpdf(y, a, scale=mu / a)
    return _InMean(log_f, a * (y - mu) / mu**2, a * (mu - 2 * y) / mu**3, a / mu**2)


def _inverse_gaussian(y: Array, mu: Array, rest: Array, m: Array, w: Array, phi: Array) -> _InMean:
    phi = phi / w
    log_f = stats.invgauss.logpdf(y, mu * phi, scale=1 / phi)
    first, second = (y - mu) / (phi * mu**3), (2 * mu - 3 * y) / (phi * mu**4)
    return _InMean(log_f, first, second, 1 / (phi * mu**3))


def _nbinom2(y: Array, mu: Array, rest: Array, m: Array, w: Array, theta: Array) -> _InMean:
    log_f = stats.nbinom.logpmf(y, theta, theta / (theta + mu))
    first = y / mu - (y + theta) / (mu + theta)
    second = (y + theta) / (mu + theta) ** 2 - y / mu**2
    return _InMean(log_f, first, second, theta / (mu * (mu + theta)))


def _nbinom1(y: Array, mu: Array, rest: Array, m: Array, w: Array, phi: Array) -> _InMean:
    r = mu / phi
    first = special.digamma(y + r) - special.digamma(r) - np.log1p(phi)
    second = special.polygamma(1, y + r) - special.polygamma(1, r)
    return _InMean(stats.nbinom.logpmf(y, r, 1 / (1 + phi)), first / phi, second / phi**2)


def _beta(y: Array, mu: Array, rest: Array, m: Array, w: Array, phi: Array) -> _InMean:
    a, b = mu * phi, rest * phi
    first = special.logit(y) - special.digamma(a) + special.digamma(b)
    second = special.polygamma(1, a) + special.polygamma(1, b)
    return _InMean(stats.beta.logpdf(y, a, b), phi * first, -(phi**2) * second)


def _betabinomial(y: Array, mu: Array, rest: Array, m: Array, w: Array, phi: Array) -> _InMean:
    a, b, n = mu * phi, rest * phi, m - y
    first = special.digamma(y + a) - special.digamma(a)
    first = first - special.digamma(n + b) + special.digamma(b)
    second = special.polygamma(1, y + a) - special.polygamma(1, a)
    second = second + special.polygamma(1, n + b) - special.polygamma(1, b)
    log_f = special.gammaln(m + 1) - special.gammaln(y + 1) - special.gammaln(n + 1)
    for k in range(int(m.max())):  # rising factorials, which keep their digits for small b
        log_f += np.where(k < y, np.log(a + k), 0) + np.where(k < n, np.log(b + k), 0)
        log_f -= np.where(k < m, np.log(phi + k), 0)
    return _InMean(log_f, phi * first, phi**2 * second)


def _tweedie(y: Array, mu: Array, rest: Array, m: Array, w: Array, phi: Array, p: Array) -> _InMean:
    phi = phi / w
    # a Poisson number of Gamma amounts, summed over the numbers
    rate, scale = mu ** (2 - p) / (phi * (2 - p)), phi * (p - 1) * mu ** (p - 1)
    j = np.arange(1.0, 600.0)
    amounts = stats.gamma.logpdf(
        np.where(y > 0, y, 1.0)[:, None], j * (2 - p) / (p - 1), scale=scale[:, None]
    )
    parts = stats.poisson.logpmf(j, rate[:, None]) + amounts
    log_f = np.where(y > 0, special.logsumexp(parts, axis=1), -rate)
    first = (y - mu) / (phi * mu**p)
    second = (-(mu ** (-p)) - p * (y - mu) * mu ** (-p - 1)) / phi
    return _InMean(log_f, first, second, 1 / (phi * mu**p))


def _student_t(
    y: Array, mu: Array, rest: Array, m: Array, w: Array, sigma: Array, df: Array
) -> _InMean:
    away, wide = y - mu, df * sigma**2
    first = (df + 1) * away / (wide + away**2)
    second = (df + 1) * (away**2 - wide) / (wide + away**2) ** 2
    expected = np.full_like(mu, (df + 1) / (df + 3) / sigma**2)
    return _InMean(stats.t.logpdf(y, df, mu, sigma), first, second, expected)


def _lognormal(y: Array, mu: Array, rest: Array, m: Array, w: Array, sigma: Array) -> _InMean:
    log_f = stats.lognorm.logpdf(y, sigma, scale=mu * np.exp(-(sigma**2) / 2))
    away = np.log(y / mu) + sigma**2 / 2
    squares = sigma**2 * mu**2
    return _InMean(log_f, away * mu / squares, -(1 + away) / squares, 1 / squares)


def _truncated_poisson(y: Array, mu: Array, *_: Array) -> _InMean:
    odds = 1 / np.expm1(mu)  # of a zero
    log_f = stats.poisson.logpmf(y, mu) - np.log(-np.expm1(-mu))
    mean = mu * (1 + odds)
    second = odds * (1 + odds) - y / mu**2
    return _InMean(log_f, y / mu - 1 - odds, second, mean * (1 + mu - mean) / mu**2)


def _truncated_nbinom2(
    y: Array, mu: Array, rest: Array, m: Array, w: Array, theta: Array
) -> _InMean:
    whole = _nbinom2(y, mu, rest, m, w, theta)
    log_zero = -theta * np.log1p(mu / theta)
    odds, slope = 1 / np.expm1(-log_zero), -theta / (theta + mu)
    first = whole.first + odds * slope
    second = whole.second + odds * (1 + odds) * slope**2 + odds * theta / (theta + mu) ** 2
    mean = mu * (1 + odds)
    spread = mean * (1 + mu + mu / theta - mean)
    expected = spread * (theta / (mu * (theta + mu))) ** 2
    return _InMean(whole.log_f - np.log(-np.expm1(log_zero)), first, second, expected)


_IN_MEAN: dict[str, Callable[..., _InMean]] = {
    "gamma": _gamma,
    "inverse_gaussian": _inverse_gaussian,
    "nbinom2": _nbinom2,
    "nbinom1": _nbinom1,
    "beta": _beta,
    "betabinomial": _betabinomial,
    "tweedie": _tweedie,
    "student_t": _student_t,
    "lognormal": _lognormal,
    "truncated_poisson": _truncated_poisson,
    "truncated_nbinom2": _truncated_nbinom2,
}
_PRECISIONS = ("gamma", "inverse_gaussian", "tweedie")


def _mean(link: str, eta: Array) -> tuple[Array, Array, Array, Array]:
    """mu, its first two derivatives in eta, and 1 - mu; nan outside the domain."""
    inside = np.where(eta > 0, eta, np.nan)
    if link in _BINOMIAL and link != "log":
        pr = _BINOMIAL[link](eta)
        mu = np.exp(pr.log_p)
        return mu, mu * pr.dlog_p, mu * (pr.dlog_p**2 + pr.d2log_p), np.exp(pr.log_q)
    one = np.ones_like(eta)
    mu, slope, bend = {
        "identity": (eta, one, 0 * one),
        "log": (np.exp(eta),) * 3,
        "sqrt": (inside**2, 2 * inside, 2 * one),
        "inverse": (1 / inside, -(inside**-2), 2 * inside**-3),
        "1/mu^2": (inside**-0.5, -0.5 * inside**-1.5, 0.75 * inside**-2.5),
    }[link]
    return mu, slope, bend, 1 - mu


def _by_mean(problem: Problem, on: Array, weights: Array, trials: Array, eta: Array, shapes: Array):
    mu, slope, bend, rest = _mean(problem.link, eta)
    if problem.family not in ("student_t",):
        mu = np.where(mu > 0, mu, np.nan)
    precise = problem.family in _PRECISIONS and problem.weights_type == "prior"
    one = np.ones_like(mu)
    times, precision = (one, weights) if precise else (weights, one)
    rows = _IN_MEAN[problem.family](
        problem.y[on], mu, rest, trials, precision, *np.atleast_1d(shapes)
    )
    return Density(
        times * rows.log_f,
        times * rows.first * slope,
        -times * (rows.second * slope**2 + rows.first * bend),
        times * rows.expected * slope**2,
    )


# ----------------------------------------------------------------------------------------------
# Model and likelihood


@dataclass(frozen=True)
class Block:
    """One grouping factor: the level of every row and its (k, n) random-effect covariates."""

    levels: Array
    n_levels: int
    Z: Array

    def dense(self, Lambda: Array) -> Array:
        """Z Lambda as an (n, n_levels k) matrix, the k columns of one level side by side."""
        k, n = self.Z.shape
        out = np.zeros((n, self.n_levels, k))
        out[np.arange(n), self.levels] = self.Z.T @ Lambda
        return out.reshape(n, -1)


@dataclass(frozen=True)
class Problem:
    """The data of a model: n rows, p fixed-effect columns, one Block per grouping factor.

    `trials` matters for the binomial only. Rows of weight 0 contribute nothing. `weights_type`
    matters where weights divide the dispersion: Gaussian variance sigma^2 / w ("prior") or w copies
    of the row ("frequency"), and so Gamma, inverse Gaussian and Tweedie; every other family
    multiplies the log-density by w. `sigma`, in the functions below, stands for the dispersion and
    shape parameters of families that have others, on their natural scale.
    """

    family: str
    link: str
    y: Array
    X: Array
    blocks: Sequence[Block]
    trials: Array | None = None
    weights: Array | None = None
    offset: Array | None = None
    weights_type: str = "prior"

    def density(self, eta: Array, sigma: float | Array = 1.0) -> Density:
        """log f and derivatives per row (n,), nan outside the link's domain, 0 at weight 0."""
        n = self.y.size
        weights = np.ones(n) if self.weights is None else self.weights
        trials = np.ones(n) if self.trials is None else self.trials
        on = weights > 0
        y, w, at = self.y[on], weights[on], eta[on]
        with np.errstate(all="ignore"):
            if self.family == "binomial":
                found = _binomial(self.link, y, trials[on], w, at)
            elif self.family == "poisson":
                found = _poisson(self.link, y, w, at)
            elif self.family == "gaussian":
                found = _gaussian(self.link, y, w, at, float(sigma), self.weights_type)
            elif self.family in _IN_MEAN:
                found = _by_mean(self, on, w, trials[on], at, np.asarray(sigma))
            else:
                raise ValueError(f"no density for family {self.family!r}")

        def spread(values: Array) -> Array:
            out = np.zeros(n)
            out[on] = values
            return out

        return Density(*map(spread, (found.log_f, found.score, found.observed, found.expected)))

    def fixed(self, beta: Array) -> Array:
        """X beta + offset, (n,)."""
        eta = self.X @ beta
        return eta if self.offset is None else eta + self.offset

    def design(self, Lambdas: Sequence[Array], sigma: float | Array = 1.0) -> Array:
        """A = s Z Lambda, (n, q), factors side by side."""
        scale = sigma if self.family == "gaussian" else 1.0
        parts = [block.dense(L) for block, L in zip(self.blocks, Lambdas, strict=True)]
        return scale * np.hstack(parts)


@dataclass(frozen=True)
class Laplace:
    """The Laplace approximation and what it is made of, at the conditional modes."""

    log_likelihood: float
    u: Array  # (q,) spherical modes
    eta: Array  # (n,)
    g: float
    W: Array  # (n,) the information that entered H
    H: Array  # (q, q)
    logdet: float
    leverages: Array  # (n,) a_i' H^-1 a_i with a_i the i-th row of A

    def modes(self, problem: Problem) -> list[Array]:
        """u per factor, (k, n_levels) each."""
        sizes = [b.n_levels * b.Z.shape[0] for b in problem.blocks]
        parts = np.split(self.u, np.cumsum(sizes)[:-1])
        return [
            part.reshape(b.n_levels, b.Z.shape[0]).T
            for part, b in zip(parts, problem.blocks, strict=True)
        ]


def _penalty(problem: Problem, base: Array, A: Array, u: Array, sigma: float | Array) -> float:
    """g(u), infinite outside the link's domain."""
    g = -problem.density(base + A @ u, sigma).log_f.sum() + u @ u / 2
    return float(g) if np.isfinite(g) else np.inf


def _newton_step(A: Array, density: Density, gradient: Array) -> Array:
    """H^-1 gradient; with other weights where the observed H is not definite."""
    identity = np.eye(A.shape[1])
    for W in (density.observed, density.expected, np.maximum(density.observed, 0.0)):
        if not np.all(np.isfinite(W)):
            continue
        try:
            return linalg.cho_solve(linalg.cho_factor(identity + A.T @ (W[:, None] * A)), gradient)
        except linalg.LinAlgError:
            continue
    raise ValueError("no positive definite information at this point")


def modes(problem: Problem, base: Array, A: Array, sigma: float | Array = 1.0) -> Array:
    """u_hat by damped Newton from 0, until a full step is lost in rounding.

    ValueError when u = 0 lies outside the link's domain or 200 steps do not suffice.
    """
    u = np.zeros(A.shape[1])
    g = _penalty(problem, base, A, u, sigma)
    if not np.isfinite(g):
        raise ValueError("the fixed effects alone are outside the domain of the link")
    small = 0
    for _ in range(200):
        density = problem.density(base + A @ u, sigma)
        step = _newton_step(A, density, u - A.T @ density.score)
        if np.abs(step).max(initial=0.0) <= 1e-11 * (1 + np.abs(u).max(initial=0.0)):
            small += 1
            if small == 3:
                return u
            u = u - step
            continue
        size = 1.0
        while (new := _penalty(problem, base, A, u - size * step, sigma)) > g + 1e-13 * abs(g):
            size /= 2
            if size < 1e-12:
                raise ValueError("no step along the Newton direction lowers g")
        u, g = u - size * step, new
    raise ValueError("the conditional modes did not converge in 200 Newton steps")


def laplace(
    problem: Problem,
    beta: Array,
    Lambdas: Sequence[Array],
    sigma: float | Array = 1.0,
    information: str = "observed",
) -> Laplace:
    """The Laplace log-likelihood, every normalising constant in.

    `Lambdas` has one k x k factor per block, relative to sigma for the Gaussian. `information`
    ("observed" or "expected") chooses W in the determinant; the modes do not depend on it.
    LinAlgError when H is not positive definite.
    """
    A, base = problem.design(Lambdas, sigma), problem.fixed(beta)
    u = modes(problem, base, A, sigma)
    eta = base + A @ u
    density = problem.density(eta, sigma)
    W = {"observed": density.observed, "expected": density.expected}[information]
    H = np.eye(A.shape[1]) + A.T @ (W[:, None] * A)
    root = linalg.cholesky(H, lower=True)
    logdet = 2 * np.log(np.diag(root)).sum()
    half = linalg.solve_triangular(root, A.T, lower=True)
    g = -density.log_f.sum() + u @ u / 2
    return Laplace(
        log_likelihood=float(-g - logdet / 2),
        u=u,
        eta=eta,
        g=float(g),
        W=W,
        H=H,
        logdet=float(logdet),
        leverages=(half**2).sum(axis=0),
    )


def quadrature(
    problem: Problem,
    beta: Array,
    Lambdas: Sequence[Array],
    sigma: float | Array = 1.0,
    n_nodes: int = 1,
    information: str = "observed",
) -> float:
    """The log-likelihood by adaptive Gauss-Hermite quadrature, one level and one node at a time.

    One grouping factor; n_nodes in each of its k dimensions, around the mode of the level and
    scaled by the lower Cholesky factor of the level's block of H, with the weights `information`.
    """
    (block,) = problem.blocks
    k, A, base = block.Z.shape[0], problem.design(Lambdas, sigma), problem.fixed(beta)
    around = laplace(problem, beta, Lambdas, sigma, information)
    points, weights = special.roots_hermite(n_nodes)
    total = 0.0
    for level in range(block.n_levels):
        own, rows = slice(level * k, (level + 1) * k), block.levels == level
        spread = np.sqrt(2) * linalg.inv(linalg.cholesky(around.H[own, own], lower=True)).T
        terms = []
        for at in product(range(n_nodes), repeat=k):
            z = points[list(at)]
            u = around.u[own] + spread @ z
            eta = np.where(rows, base + A[:, own] @ u, around.eta)
            log_f = problem.density(eta, sigma).log_f[rows].sum()
            terms.append(np.log(weights[list(at)]).sum() + z @ z + log_f - u @ u / 2)
        scale = np.log(np.diagonal(spread)).sum() - k * np.log(2 * np.pi) / 2
        total += special.logsumexp(terms) + scale
    return float(total)


def without_weightless(problem: Problem) -> Problem:
    """The same model with the rows of weight 0 taken out."""
    if problem.weights is None:
        return problem
    on = problem.weights > 0
    rows = {
        name: values[on]
        for name in ("y", "X", "trials", "weights", "offset")
        if (values := getattr(problem, name)) is not None
    }
    blocks = [replace(b, levels=b.levels[on], Z=b.Z[:, on]) for b in problem.blocks]
    return replace(problem, blocks=blocks, **rows)


# ----------------------------------------------------------------------------------------------
# Covariance factors


def lower_triangular(theta: Array, k: int) -> Array:
    """The k x k factor whose lower triangle, read by columns, is theta."""
    Lambda = np.zeros((k, k))
    rows, columns = np.triu_indices(k)[::-1]
    Lambda[rows, columns] = theta
    return Lambda


# ----------------------------------------------------------------------------------------------
# Finite differences


def _richardson(estimates: list[Array]) -> Array:
    """Extrapolate central differences at steps h, h/2, h/4, ... to h = 0."""
    row = estimates
    power = 4.0
    while len(row) > 1:
        row = [(power * fine - coarse) / (power - 1) for coarse, fine in pairwise(row)]
        power *= 4.0
    return row[0]


def jacobian_fd(
    f: Callable[[Array], float | Array], x: Array, step: float = 0.02, depth: int = 4
) -> Array:
    """d f / d x by central differences, extrapolated: shape f(x).shape + (x.size,).

    Steps are `step` max(1, |x_j|), halved `depth` - 1 times; the error is of order step^(2 depth).
    """
    x = np.asarray(x, dtype=float)
    columns = []
    for j in range(x.size):
        unit = np.zeros_like(x)
        unit[j] = max(1.0, abs(x[j]))
        sizes = step / 2.0 ** np.arange(depth)
        columns.append(
            _richardson(
                [
                    (np.asarray(f(x + h * unit)) - np.asarray(f(x - h * unit))) / (2 * h * unit[j])
                    for h in sizes
                ]
            )
        )
    return np.stack(columns, axis=-1)


def gradient_fd(f: Callable[[Array], float], x: Array, step: float = 0.02, depth: int = 4) -> Array:
    """Gradient (d,) of a scalar function; see `jacobian_fd`."""
    return jacobian_fd(f, x, step, depth)


def hessian_fd(f: Callable[[Array], float], x: Array, step: float = 0.05, depth: int = 4) -> Array:
    """Hessian (d, d) of a scalar function by second central differences, extrapolated."""
    x = np.asarray(x, dtype=float)
    units = np.diag(np.maximum(1.0, np.abs(x)))
    here = f(x)
    hessian = np.empty((x.size, x.size))
    for i in range(x.size):
        for j in range(i + 1):
            a, b = units[i], units[j]
            area = a[i] * b[j]
            estimates = []
            for h in step / 2.0 ** np.arange(depth):
                if i == j:
                    second = f(x + h * a) - 2 * here + f(x - h * a)
                else:
                    second = (
                        f(x + h * (a + b))
                        - f(x + h * (a - b))
                        - f(x - h * (a - b))
                        + f(x - h * (a + b))
                    ) / 4
                estimates.append(np.asarray(second / (h * h * area)))
            hessian[i, j] = hessian[j, i] = _richardson(estimates)
    return hessian
