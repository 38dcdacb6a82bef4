"""Priors as penalties: cures for separation and singular fits, of one's own, tuned by gradient."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf
from mixedlm_jax import priors

# No animal fell ill in the last period: its coefficient has no finite estimate ...
cbpp = mlm.load_cbpp()
cbpp.loc[cbpp["period"].astype(str) == "4", "incidence"] = 0
formula = "incidence / size ~ period + (1 | herd)"
with warnings.catch_warnings():
    warnings.simplefilter("ignore", mlm.ConvergenceWarning)
    plain = mlm.glmer(formula, cbpp, "binomial")
print(mlm.checkConv(plain))
# ... and with a weak prior it has
held = mlm.glmer(formula, cbpp, "binomial", prior=priors.Normal(2.5))
print(held.tidy(effects="fixed").round(2).to_string(index=False))

# Ten groups that differ less than chance: the fit is singular, unless zero is penalised
counts = pd.DataFrame({"y": [1, 2, 3, 4] * 10, "g": np.repeat(np.arange(10), 4)})
with warnings.catch_warnings():
    warnings.simplefilter("ignore", mlm.SingularFitWarning)
    singular = mlm.glmer("y ~ 1 + (1 | g)", counts, "poisson")
away = mlm.glmer("y ~ 1 + (1 | g)", counts, "poisson", prior=priors.AwayFromZero())
print(f"\nsd {singular.theta[0]:.4f} without, {away.theta[0]:.4f} with AwayFromZero")

# In the functional API: any function of the parameters, several together, and any optimiser
with jax.enable_x64(True):
    problem = mf.make_problem(formula, cbpp, "binomial")
    prior = (lambda params: -jnp.sum(jnp.abs(params.beta[1:])), priors.HalfT(scale=0.5))
    by_adam = mf.optimize(problem, optax.adam(0.05), prior=prior, steps=300)
    print(f"\nAdam: {np.round(by_adam.params.flat, 3)}, {by_adam.decrement:.0e} from the optimum")

    # A prior's numbers are arrays like any other: how do the estimates move with a ridge's?
    start = mf.init(problem)

    @jax.jit
    @jax.jacfwd
    def slope(strength):
        """The derivative of the fixed effects in the strength of a ridge."""
        return mf.solve(problem, start, prior=priors.Ridge(strength)).params.beta

    print("d beta / d strength of a ridge of 1:", np.round(slope(1.0), 3))
