"""Sampling with BlackJAX's NUTS: with the random effects integrated out, and with all of them.

Needs the extra `sample` (BlackJAX and ArviZ).
"""

import arviz
import blackjax
import jax

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf
from mixedlm_jax import priors

CHAINS, WARM_UP, DRAWS = 2, 300, 500


def sample(posterior, start, key):
    """Draws of one chain, as positions stacked along their first axis."""
    warming, drawing = jax.random.split(key)
    window = blackjax.window_adaptation(blackjax.nuts, posterior)
    (state, settings), _ = window.run(warming, start, num_steps=WARM_UP)
    step = blackjax.nuts(posterior, **settings).step

    def one(state, key):
        state, _ = step(key, state)
        return state, state.position

    return jax.lax.scan(one, state, jax.random.split(drawing, DRAWS))[1]


with jax.enable_x64(True):
    problem = mf.make_problem(
        "incidence / size ~ period + (1 | herd)", mlm.load_cbpp(), "binomial"
    )
    prior = (priors.Normal(10.0, intercept=10.0), priors.HalfT(scale=5.0))

    for joint in (False, True):
        posterior = mf.log_posterior(problem, prior, joint=joint)
        start = posterior.unconstrain(mf.init(problem))
        keys = jax.random.split(jax.random.key(1), CHAINS)
        draws = jax.jit(jax.vmap(lambda key: sample(posterior, start, key)))(keys)  # noqa: B023
        table = arviz.summary(arviz.from_dict(posterior.named(draws)), kind="all", round_to=3)
        print("\nAll random effects sampled" if joint else "Random effects by Laplace")
        print(table[["mean", "sd", "ess_bulk", "r_hat"]])
