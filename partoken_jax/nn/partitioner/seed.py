"""The seed of a round: the residue of every protein that its cluster grows from.

Hard forward, soft backward: the choice is an argmax, its gradient that of a softmax (straight-through;
Jang et al. 2017, Maddison et al. 2017 for the Gumbel noise that makes it a sample). Whether a protein has a
seed is decided from masks, never from the size of a logit.

Legend: N residues, G graphs, D channels, H hidden.
"""

import jax
import jax.numpy as jnp

from partoken_jax.graphs.segments import segment_max, segment_softmax, segment_sum
from partoken_jax.nn.dropout import dropout
from partoken_jax.nn.linear import MLP, affine
from partoken_jax.nn.noise import Noise


def residue_half(selector: MLP, x: jax.Array) -> jax.Array:
    """[N, H]: W_x x + b, the part of the seed MLP's first layer that no round changes, for x [N, D]."""
    weight, bias = affine(selector.layers[0])
    return x @ weight[: x.shape[1]] + bias


def seed_logits(
    selector: MLP,
    half: jax.Array,  # [N, H]
    context: jax.Array,  # [G, H]
    index: jax.Array,  # int32 [N]
    noise: Noise | None,
) -> jax.Array:
    """[N]: MLP([x, g]) = W_2 drop(relu(W_x x + W_g g + b)) + b_2, with `half` = W_x x + b.

    Dropout acts only when noise is given.

    REFERENCE.md section 4, step 2, seed logits.
    """
    first, last = selector.layers
    from_context = context @ first.kernel[...][-context.shape[1] :]
    hidden = jax.nn.relu(half + from_context[index])
    return last(dropout(hidden, selector.rate, noise))[:, 0]


def gumbel(uniform: jax.Array) -> jax.Array:
    """G = -log(-log(u + 1e-8) + 1e-8), of uniform numbers in [0, 1).

    REFERENCE.md section 4, step 2, Gumbel noise.
    """
    return -jnp.log(-jnp.log(uniform + 1e-8) + 1e-8)


def choose_seed(
    logits: jax.Array,  # [N]
    selectable: jax.Array,  # bool [N]
    index: jax.Array,  # int32 [N]
    num_graphs: int,
) -> jax.Array:
    """int32 [G]: argmax of the logits over the selectable residues of each protein, -1 without any.

    The first one on ties.

    REFERENCE.md section 4, step 2, seed choice.
    """
    fixed, num_nodes = jax.lax.stop_gradient(logits), logits.shape[0]
    best = selectable & (fixed == segment_max(fixed, selectable, index, num_graphs)[index])
    place = jnp.where(best, jnp.arange(num_nodes), num_nodes)
    first = jax.ops.segment_min(place, index, num_graphs, indices_are_sorted=True)
    return jnp.where(first < num_nodes, first, -1)


def straight_through_one_hot(
    is_seed: jax.Array,  # bool [N]
    logits: jax.Array,  # [N]
    selectable: jax.Array,  # bool [N]
    index: jax.Array,  # int32 [N]
    num_graphs: int,
) -> jax.Array:
    """w [N] = one-hot + softmax(logits) - stop_gradient(softmax(logits)).

    Its value is the one-hot, its gradient that of the softmax over the selectable residues of each protein.

    REFERENCE.md section 4, step 2, straight-through one-hot.
    """
    soft = segment_softmax(logits, selectable, index, num_graphs)
    return is_seed + (soft - jax.lax.stop_gradient(soft))


def seed_feature(
    x: jax.Array,  # [N, D]
    seed: jax.Array,  # int32 [G], -1 where there is none
    w: jax.Array,  # [N]
    index: jax.Array,  # int32 [N]
) -> jax.Array:
    """x_seed [G, D] = Σ_n w_n x_n: the seed's feature, with a gradient into every logit; 0 without a seed.

    REFERENCE.md section 4, step 5, feature of the seed.
    """
    value = jnp.where((seed >= 0)[:, None], x[jnp.maximum(seed, 0)], 0.0)
    nothing = w - jax.lax.stop_gradient(w)  # its value is 0; it carries the gradient of w
    through = segment_sum(nothing[:, None] * jax.lax.stop_gradient(x), index, seed.shape[0])
    return value + through
