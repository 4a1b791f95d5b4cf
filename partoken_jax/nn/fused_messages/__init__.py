"""The messages of a conv layer as one kernel for TPUs (Pallas, Mosaic): what belongs to an edge is computed
from what arrives, summed over the neighbours and forgotten, and never leaves the chip.

    layout     what the kernels read: features in rows, receivers in columns
    products   matrix products in every precision that the models have
    weights    the weights of the message GVPs, cut up for residues and edges
    message    the message of a block of edges
    window     the part of the table of senders that a kernel holds
    forward    the kernel of the messages
    backward   the kernel of their gradient, which computes every message again
    messages   both together as a function with a gradient
    gpu        the same for NVIDIA's Hopper GPUs, which no model takes by itself

`message_passing_blocks` takes layout, products, weights and message from here, and has no kernel.

Legend: N residues, n = N rounded up to whole tiles of 128, T = n / 128 tiles, K neighbours; S scalars, H
hidden vectors of the first GVP and C vectors of the others, each rounded up to a multiple of 8; F = S + 3 H;
E edge features; R = 128 receivers of a tile; J slots at a time.
"""
