"""The partitioner: S rounds, each of which grows at most one cluster of residues per protein.

A file per step, as docs/REFERENCE.md, section 4, numbers them:

    termination   1     enough of a protein is assigned
    seed          2     the residue that a cluster grows from
    candidates    3, 4  the residues within k hops of the seed, and what the threshold sees of them
    score         5     score, threshold, probability of joining
    trim          6     the size limit
    cluster       7, 8, 9  members, their feature, and what later rounds remember of it
    cardinality   8     the term that asks for clusters of the expected size

`round` puts them together, `module` holds the weights and repeats the round, `noise` draws the numbers for
the sampling of seeds, `edges` answers what a round asks of the edges, and `start` sets weights from data
before training. `controls` has partitioners that learn nothing, to compare with.
"""

from partoken_jax.nn.partitioner.controls import build_partitioner as build_partitioner
from partoken_jax.nn.partitioner.module import Partition as Partition
from partoken_jax.nn.partitioner.module import Partitioner as Partitioner
from partoken_jax.nn.partitioner.noise import seed_noise as seed_noise
from partoken_jax.nn.partitioner.round import RoundRecord as RoundRecord
