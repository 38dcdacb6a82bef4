"""The marginal log-likelihood as a JAX function: value, derivatives, clusters, many responses."""

import jax
import jax.numpy as jnp
import numpy as np

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf

with jax.enable_x64(True):  # your choice: without it all of this is in float32
    cbpp = mlm.load_cbpp()
    problem = mf.make_problem("incidence / size ~ period + (1 | herd)", cbpp, "binomial")
    params = mf.init(problem)
    print("Parameters:", ", ".join(problem.names.flat))

    value, slope = jax.jit(jax.value_and_grad(mf.log_likelihood))(params, problem)
    print(f"\nlog L at the start {value:.4f}, its gradient {np.round(slope.flat, 3)}")

    found = mf.solve(problem, params)
    print(f"at the optimum {found.log_likelihood:.4f}, {found.decrement:.0e} from it")

    # Standard errors: the inverse of the Hessian over all parameters
    hessian = jax.jit(jax.hessian(lambda x: -mf.log_likelihood(problem.split(x), problem)))
    model_based = jnp.linalg.inv(hessian(found.params.flat))

    # ... and robust ones, from the score of each herd
    scores = mf.score_contributions(found.params, problem).flat
    sandwich = model_based @ scores.T @ scores @ model_based
    print("\n                  estimate      SE  robust SE")
    for name, *numbers in zip(
        problem.names.flat,
        found.params.flat,
        jnp.sqrt(jnp.diag(model_based)),
        jnp.sqrt(jnp.diag(sandwich)),
        strict=True,
    ):
        print(f"{name:17s}" + "".join(f"{number:9.4f}" for number in numbers))

    # The same likelihood by quadrature, and of a thousand other responses in one call
    print(f"\nBy quadrature: {mf.log_likelihood(found.params, problem.replace(nAGQ=25)):.4f}")
    rng = np.random.default_rng(1)
    incidence = rng.binomial(cbpp["size"], 0.15, size=(1000, len(cbpp)))
    many = jax.jit(jax.vmap(lambda y: mf.log_likelihood(found.params, problem.replace(y=y))))
    print(f"Of 1000 responses without an effect of period: {many(incidence).mean():.2f} on average")
