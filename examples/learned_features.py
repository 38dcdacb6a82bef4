"""A mixed-effects neural network: X is learned, through the marginal likelihood (needs Equinox)."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from mixedlm_jax import functional as mf

# Counts of 60 groups: a bent surface of two predictors, and an effect of each group.
rng = np.random.default_rng(3)
n, group = 900, np.arange(900) % 60
x = rng.uniform(-2.0, 2.0, size=(n, 2))
surface = 0.5 + np.sin(2.0 * x[:, 0]) * x[:, 1]
counts = rng.poisson(np.exp(surface + rng.normal(scale=0.5, size=60)[group]))
frame = pd.DataFrame({"y": counts, "x1": x[:, 0], "x2": x[:, 1], "group": group})

linear = mf.make_problem("y ~ x1 + x2 + (1 | group)", frame, "poisson")  # in float32
plane = mf.solve(linear, mf.init(linear))
print(f"log L of a plane     {plane.log_likelihood:9.1f}, sd {plane.params.theta[0]:.3f}")

# Six features of the two predictors; the fixed effects are their coefficients.
network = eqx.nn.MLP(2, 6, 24, 2, jax.nn.tanh, key=jax.random.key(0))
weights, rest = eqx.partition(network, eqx.is_array)


def features(weights):
    """The intercept and the learned columns of X."""
    learned = jax.vmap(eqx.combine(weights, rest))(linear.X[:, 1:])
    return jnp.concatenate([jnp.ones((n, 1)), learned], axis=1)


def loss(both):
    """Minus the log-likelihood of network and parameters, per row."""
    weights, params = both
    return -mf.log_likelihood(params, linear.replace(X=features(weights))) / n


@jax.jit
def train(both):
    """What Adam makes of network and parameters, and the last loss."""
    def step(state, _):
        value, slope = jax.value_and_grad(loss)(state[0])
        updates, memory = optimizer.update(slope, state[1])
        return (optax.apply_updates(state[0], updates), memory), value

    (both, _), losses = jax.lax.scan(step, (both, optimizer.init(both)), length=600)
    return both, losses[-1]


optimizer = optax.adam(0.01)
start = mf.init(linear)._replace(beta=0.1 * jax.random.normal(jax.random.key(1), (7,)))
(weights, params), last = train((weights, start))
print(f"log L of the network {-n * last:9.1f}, sd {abs(params.theta[0]):.3f} (truth 0.5)")
likeness = np.corrcoef(features(weights) @ params.beta, surface)[0, 1]
print(f"correlation of its surface with the true one: {likeness:.3f}")
