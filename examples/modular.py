"""lme4's modular steps: the deviance as a function of its parameters, to minimise as one likes."""

import numpy as np
from scipy.optimize import minimize

import mixedlm_jax as mlm

parsed = mlm.glFormula(
    "incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), family="binomial"
)
print("Fixed effects:", ", ".join(parsed.labels.fixed), "; rows:", len(parsed.design.y))

devfun = mlm.mkGlmerDevfun(parsed)  # the same as mlm.glmer(..., devFunOnly=True)
print(f"-2 log L at {np.round(devfun.start, 2)} is {devfun(devfun.start):.4f}")

# by an optimiser of one's own, which need not know of bounds: the deviance is even in theta
found = minimize(devfun, devfun.start, jac=devfun.gradient, method="L-BFGS-B")
print(f"SciPy's L-BFGS-B: {found.fun:.6f} after {found.nfev} evaluations")

# ... and by the package's, from there: it adds the Hessian, the verdict and the modes
fit = mlm.optimizeGlmer(devfun, found.x)
print(f"optimizeGlmer:    {-2 * fit.log_likelihood:.6f}")
print(mlm.mkGlmerMod(devfun, fit))

# A profile of the deviance by hand: what does it cost to hold the standard deviation?
print("\n  sd   deviance above the minimum")
for sd in (0.3, 0.5, 0.65, 0.9, 1.2):

    def held(rest, sd=sd):
        """The deviance of the fixed effects at this standard deviation."""
        return devfun([sd, *rest])

    def slope(rest, sd=sd):
        """Its gradient."""
        return devfun.gradient([sd, *rest])[1:]

    profile = minimize(held, fit.beta, jac=slope, method="BFGS").fun
    print(f"{sd:5.2f} {profile + 2 * fit.log_likelihood:8.3f}")
