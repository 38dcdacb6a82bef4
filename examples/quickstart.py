"""Fit a binomial mixed model to the cattle data and look at it from all sides."""

import numpy as np

import mixedlm_jax as mlm

cbpp = mlm.load_cbpp()
model = mlm.glmer(
    "incidence / size ~ period + (1 | herd)",
    cbpp,
    family=mlm.families.Binomial(),
)

print(model.summary())

print("\nOdds ratios against period 1:")
for name, coefficient in model.fixef().items():
    if name != "(Intercept)":
        print(f"  {name}: {np.exp(coefficient):.3f}")

print("\n95% Wald intervals (log-odds):")
print(model.confint())

check = mlm.checkConv(model)
print(f"\nConverged: {check.ok}; {check}")

quadrature = model.update(nAGQ=10)
print("\nLog-likelihood and coefficients by Laplace and by quadrature with 10 nodes:")
print(f"  {'log-likelihood':14s} {float(model.logLik()):9.4f} {float(quadrature.logLik()):9.4f}")
for name, coefficient in model.fixef().items():
    print(f"  {name:14s} {coefficient:9.4f} {quadrature.fixef()[name]:9.4f}")

print("\nIs Laplace good enough here?")
print(mlm.check_laplace(model, nAGQ=10))
