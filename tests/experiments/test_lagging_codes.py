"""Codes of a model that lag behind its clusters, on made-up ones."""

import jax.numpy as jnp
from flax import nnx

from experiments.lagging_codes import EPOCHS, compared, table
from partoken_jax.config import CodebookConfig
from partoken_jax.nn.residual_codebook import build_codebook
from tests.experiments.test_codebooks import WIDTH, made


def test_codes_that_are_rarely_chosen_come_back_only_where_these_are_reseeded():
    """Two of 64 codes share the clusters; the others lie where a few clusters are the nearest to them."""
    clusters = {"train": made(400, 0), "val": made(200, 1)}
    book = build_codebook(WIDTH, CodebookConfig(size=64, decay=0.9), rngs=nnx.Rngs(0))
    train = clusters["train"].features[clusters["train"].mask]
    far = train[train[:, 0].argsort()[-62:]]  # all at one end
    state = book.state
    codes = jnp.asarray([*train[:2], *far])
    book.set_state(state._replace(embeddings=codes, sums=codes, counts=jnp.ones(64)))
    before = book.state
    found = compared(book, clusters, seed=0)
    assert all(jnp.array_equal(a, b) for a, b in zip(before, book.state, strict=True))
    later = {kind: use["perplexity_share"] for kind, use in found.items()}
    left, never, quarter = (
        later[f"{EPOCHS} epochs later, {how}"]
        for how in ("not re-seeded", "re-seeded if never chosen", "re-seeded below 25%")
    )
    assert later["of the model"] < later["k-means of the same clusters"]
    assert left < quarter and never < quarter
    assert table({"models": {"seed 0": {"use": found}}}).count("\n") == len(found) + 1
