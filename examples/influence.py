"""Which rows move an estimate? The derivative of the fit in every row's weight, in one pass."""

import jax
import numpy as np

import mixedlm_jax as mlm
from mixedlm_jax import functional as mf

verbagg = mlm.load_verbagg()
formula = "y ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"

with jax.enable_x64(True):
    problem = mf.make_problem(formula, verbagg, "binomial")
    start = mf.init(problem)
    anger = problem.names.beta.index("Anger")

    def estimate(arrays):
        """The fixed effect of trait anger, as a function of arrays of the problem."""
        return mf.solve(problem.replace(**arrays), start).params.beta[anger]

    # the estimates' derivative is that of the implicit function theorem: nothing is refitted
    both = jax.jit(jax.value_and_grad(estimate))
    arrays = {"weights": problem.weights, "y": problem.y}
    value, slope = both(arrays)
    influence = np.asarray(slope["weights"])
    print(f"Anger: {value:.5f}; influence of {len(influence)} rows")

    print("\nLeaving out a row moves it by about minus its influence; by refitting:")
    for row in np.argsort(-np.abs(influence))[:5]:
        without = {**arrays, "weights": problem.weights.at[row].set(0.0)}
        moved = both(without)[0] - value
        who = verbagg.iloc[row]
        print(f"  {who['id']:>4} {who['item']:<12} {who['y']}  {-influence[row]:9.6f} {moved:9.6f}")

    # another array, another question: an answer that was written down wrongly
    mistyped = np.abs(np.asarray(slope["y"])).max()
    print(f"\nA mistyped answer moves it by up to about {mistyped:.5f}")
