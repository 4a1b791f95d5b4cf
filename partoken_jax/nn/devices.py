"""Sums over the devices that share a batch (`axis_name` of `jax.shard_map`), and what they are needed for.

A mean over the batch is Σ_d share_d · mean_d: every device takes the mean over its own part and multiplies it
by its share of what is counted. So no formula of a loss knows of devices.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

T = TypeVar("T")


class Counts(NamedTuple):
    """What the means over a batch count: of one device, or its share of those of all devices."""

    labelled: jax.Array
    """[]: proteins with a label."""
    proteins: jax.Array
    """[]"""
    clusters: jax.Array
    """[]"""
    of_round: jax.Array
    """[S]: proteins in which a round of the partitioner found a cluster."""


def sum_over_devices(tree: T, axis_name: str) -> T:
    """Sums every number of a tree over the devices, in one all-reduce."""
    flat, restore = ravel_pytree(tree)
    return restore(jax.lax.psum(flat, axis_name))


def shares(mine: T, of_all: T) -> T:
    """This device's share of every count; 0 where nothing is counted."""
    return jax.tree.map(lambda part, whole: part / jnp.maximum(whole, 1), mine, of_all)
