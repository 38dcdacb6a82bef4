"""Long reference runs of the posterior of cbpp: writes posterior.json beside this file.

    python tests/reference/make_posterior.py

Random-walk Metropolis in NumPy alone, nothing of the package: 64 chains side by side. Model

    incidence_i ~ Binomial(size_i, expit(x_i' beta + sd u_herd(i))),  u ~ N(0, 1)
    beta_j ~ N(0, 10^2), sd ~ half-t(3 degrees of freedom, scale 5)

with u integrated out once by Laplace's approximation and once by Gauss-Hermite quadrature with 31
nodes around each mode, which is exact to all digits that matter here.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy import special

HERE = Path(__file__).parent
CHAINS, WARM, KEPT, THIN = 64, 2_000, 20_000, 4
NAMES = ["herd.(Intercept)", "(Intercept)", "period2", "period3", "period4"]
# covariance of (log sd, beta) about as large as the posterior's
SPREAD = np.array([0.35, 0.27, 0.31, 0.33, 0.45])


def read():
    """Incidence, size, X and the herd of each row."""
    rows = np.genfromtxt(
        HERE / "data" / "cbpp.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    period = np.array([str(value).strip('"') for value in rows["period"]])
    herd = np.unique([str(value) for value in rows["herd"]], return_inverse=True)[1]
    X = np.column_stack([np.ones(len(rows)), *(period == p for p in "234")]).astype(float)
    return rows["incidence"].astype(float), rows["size"].astype(float), X, herd


Y, SIZE, X, HERD = read()
MEMBER = (HERD[:, None] == np.arange(HERD.max() + 1)).astype(float)  # (rows, herds)
CHOICES = special.gammaln(SIZE + 1) - special.gammaln(Y + 1) - special.gammaln(SIZE - Y + 1)
CONSTANT = np.sum(CHOICES)
NODES, WEIGHTS = np.polynomial.hermite.hermgauss(31)


def by_herd(fixed, sd, u):
    """log f(y | u) - u^2 / 2 of each herd with its score and curvature; u (chains, herds)."""
    eta = fixed + sd[:, None] * u[:, HERD]
    p = special.expit(eta)
    value = (Y * eta - SIZE * np.logaddexp(0.0, eta)) @ MEMBER - 0.5 * u**2
    score = sd[:, None] * ((Y - SIZE * p) @ MEMBER) - u
    curvature = sd[:, None] ** 2 * ((SIZE * p * (1 - p)) @ MEMBER) + 1.0
    return value, score, curvature


def log_likelihood(beta, sd, exact):
    """(chains,)"""
    fixed = beta @ X.T
    u = np.zeros((len(sd), MEMBER.shape[1]))
    for _ in range(8):
        _, score, curvature = by_herd(fixed, sd, u)
        u += score / curvature
    value, _, curvature = by_herd(fixed, sd, u)
    if not exact:
        return CONSTANT + np.sum(value - 0.5 * np.log(curvature), axis=1)
    total = np.full_like(u, -np.inf)
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        at = by_herd(fixed, sd, u + np.sqrt(2.0 / curvature) * node)[0]
        total = np.logaddexp(total, at + node**2 + np.log(weight))
    return CONSTANT + np.sum(total - 0.5 * np.log(np.pi * curvature), axis=1)


def log_posterior(z, exact):
    """At (log sd, beta), up to a constant (chains,)."""
    sd, beta = np.exp(z[:, 0]), z[:, 1:]
    prior = -0.5 * np.sum((beta / 10.0) ** 2, axis=1) - 2.0 * np.log1p((sd / 5.0) ** 2 / 3.0)
    return log_likelihood(beta, sd, exact) + prior + z[:, 0]


def run(exact):
    rng = np.random.default_rng(2026)
    z = np.array([np.log(0.65), -1.4, -1.0, -1.1, -1.6]) + SPREAD * rng.normal(size=(CHAINS, 5))
    here = log_posterior(z, exact)
    kept = np.empty((KEPT // THIN, CHAINS, 5))
    for step in range(-WARM, KEPT):
        there = z + 0.75 * SPREAD * rng.normal(size=z.shape) * (rng.random((CHAINS, 5)) < 0.6)
        value = log_posterior(there, exact)
        taken = np.log(rng.random(CHAINS)) < value - here
        z, here = np.where(taken[:, None], there, z), np.where(taken, value, here)
        if step >= 0 and step % THIN == 0:
            kept[step // THIN] = z
    kept[..., 0] = np.exp(kept[..., 0])
    means = kept.mean(axis=0)  # of each chain
    return {
        "mean": dict(zip(NAMES, kept.mean(axis=(0, 1)).tolist(), strict=True)),
        "sd": dict(zip(NAMES, kept.std(axis=(0, 1)).tolist(), strict=True)),
        # of the means, from the spread between chains
        "error": dict(zip(NAMES, (means.std(axis=0) / np.sqrt(CHAINS)).tolist(), strict=True)),
    }


if __name__ == "__main__":
    found = {"laplace": run(False), "exact": run(True)}
    (HERE / "posterior.json").write_text(json.dumps(found, indent=1) + "\n")
