"""Residual VQ (Zeghidour et al. 2021): codebooks in a row, each naming what the ones before left over.

A cluster becomes the sum of its codes. Its token is the code of the first codebook, which says most of it and
keeps tokens as few as without the further ones.

Legend: B proteins, S clusters, D channels.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from partoken_jax.config import CodebookConfig
from partoken_jax.nn.codebook import ClusterStatistics, Quantised, VQCodebook, replaced


def build_codebook(width: int, config: CodebookConfig, *, rngs: nnx.Rngs) -> "VQCodebook | ResidualCodebook":
    """The codebook that `config.quantiser` names; `width` is D of the cluster features."""
    return (ResidualCodebook if config.quantiser == "residual" else VQCodebook)(width, config, rngs=rngs)


class ResidualCodebook(nnx.Module):
    """`config.levels` codebooks, each with its own moving averages and space."""

    def __init__(self, width: int, config: CodebookConfig, *, rngs: nnx.Rngs):
        assert config.levels is not None
        self.config = config
        self.levels = nnx.List([VQCodebook(width, config, rngs=rngs) for _ in range(config.levels)])

    @property
    def embeddings(self) -> nnx.Variable:
        """[K, D]: the tokens."""
        return self.levels[0].embeddings

    @property
    def counts(self) -> nnx.Variable:
        """[K]: moving counts of the tokens."""
        return self.levels[0].counts

    def quantise(self, z: jax.Array, mask: jax.Array) -> Quantised:
        """Replaces clusters z [B, S, D] by the sums of their codes; changes nothing.

        `Quantised.codes` are those of the first codebook. The commitment loss pulls z to the sum.
        """
        rest, codes = jax.lax.stop_gradient(z), []
        for book in self.levels:
            codes.append(book.choose(rest))
            rest = rest - book.embeddings[...][codes[-1]]
        chosen = jax.lax.stop_gradient(z - rest)
        out = replaced(z, chosen, codes[0], mask, beta=self.config.beta, gradient=self.config.gradient)
        return out._replace(further=tuple(jnp.where(mask, code, -1) for code in codes[1:]))

    def statistics(self, z: jax.Array, out: Quantised) -> tuple[ClusterStatistics, ...]:
        """What `move` reads of clusters z [B, S, D] that `quantise` made `out` of."""
        found = []
        for book, codes in zip(self.levels, (out.codes, *out.further), strict=True):
            found.append(book.statistics(z, out._replace(codes=codes)))
            z = z - book.embeddings[...][codes]
        return tuple(found)

    def move(self, statistics: tuple[ClusterStatistics, ...], update: bool | jax.Array) -> None:
        """Moves the averages of every codebook, as `VQCodebook.move`."""
        for book, of_book in zip(self.levels, statistics, strict=True):
            book.move(of_book, update)
