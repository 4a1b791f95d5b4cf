"""Brings any list of edges into the dense layout: one row of senders per receiver."""

import numpy as np


def dense_layout(senders: np.ndarray, receivers: np.ndarray, num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """The neighbour table of a graph given as an edge list.

    Edges of one receiver keep their order. K is the largest number of edges of a receiver, at least 1.

    Args:
      senders, receivers: int [E], from 0 to num_nodes - 1, in any order.
      num_nodes: N.

    Returns:
      table: int32 [N, K], senders of each receiver's edges, the receiver itself in empty slots.
      edge_slot: int32 [N, K], position of the edge in the list, -1 in empty slots.

    Raises ValueError for lists of unequal length or a node that does not exist.
    """
    senders, receivers = np.asarray(senders), np.asarray(receivers)
    if senders.ndim != 1 or senders.shape != receivers.shape:
        raise ValueError(
            f"senders has shape {senders.shape} and receivers {receivers.shape}, but both must be [edges]"
        )
    for name, ends in (("senders", senders), ("receivers", receivers)):
        if ends.size and not 0 <= ends.min() <= ends.max() < num_nodes:
            raise ValueError(f"{name} run from {ends.min()} to {ends.max()}, but there are {num_nodes} nodes")
    degree = np.bincount(receivers, minlength=num_nodes)
    width = max(1, int(degree.max(initial=0)))
    order = np.argsort(receivers, kind="stable")
    row = receivers[order]
    column = np.arange(len(row)) - (np.cumsum(degree) - degree)[row]
    table = np.repeat(np.arange(num_nodes, dtype=np.int32)[:, None], width, axis=1)
    edge_slot = np.full((num_nodes, width), -1, np.int32)
    table[row, column] = senders[order]
    edge_slot[row, column] = order
    return table, edge_slot
