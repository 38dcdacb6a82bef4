"""A family that nobody ships: angles around a circle, by von Mises, with random effects."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

import mixedlm_jax as mlm


def direction(eta):
    """The mean direction at a linear predictor."""
    return 2 * jnp.arctan(eta)  # from the whole line to (-pi, pi)


# The family: log f = kappa cos(y - mu) - log(2 pi I0(kappa)), I0(kappa) = i0e(kappa) exp(kappa).
def von_mises(y, eta, phi):
    """The log-density of one angle."""
    about = phi["kappa"] * (jnp.cos(y - direction(eta)) - 1)
    return about - jnp.log(2 * jnp.pi * jax.scipy.special.i0e(phi["kappa"]))


family = mlm.families.CustomFamily(von_mises, link=direction, params={"kappa": "positive"})

# Headings of 60 birds on 12 flights each, in a side wind.
TRUTH = {"(Intercept)": 0.3, "wind": 0.5, "sd of birds": 0.4, "kappa": 4.0}
rng = np.random.default_rng(7)
bird = np.repeat(np.arange(60), 12)
wind = rng.normal(size=720)
own = TRUTH["sd of birds"] * rng.normal(size=60)
eta = TRUTH["(Intercept)"] + TRUTH["wind"] * wind + own[bird]
heading = rng.vonmises(2 * np.arctan(eta), TRUTH["kappa"])
flights = pd.DataFrame({"heading": heading, "wind": wind, "bird": bird})

model = mlm.glmer("heading ~ wind + (1 | bird)", flights, family)
print(model.summary())

se = np.sqrt(np.diag(model.vcov(full=True)))  # theta, fixed effects, kappa
found = {**model.fixef(), "sd of birds": model.theta[0], **model.dispersion}
errors = dict(zip(found, [*se[1:3], se[0], se[3]], strict=True))
print("\n               truth  estimate  standard error")
for name, value in TRUTH.items():
    print(f"{name:13s} {value:6.2f} {found[name]:9.3f} {errors[name]:15.3f}")

calm = pd.DataFrame({"wind": [0.0]})
(typical,) = model.predict(calm, re_form="~0")
print(f"\nHeading of a typical bird without wind: {typical:.3f} radians")
