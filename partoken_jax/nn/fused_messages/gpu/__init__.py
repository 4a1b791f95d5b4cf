"""The messages of a conv layer as kernels for NVIDIA's Hopper GPUs (Pallas, Mosaic GPU).

Experimental: compiled for an H100 and interpreted, never run on a device, and in use where called by name.

What belongs to an edge is computed on the chip and never leaves it, but for the gradient of its sender's row,
which XLA sums through the reverse table of `nn.gather`.

    layout     what the kernels read: slots first, features in columns, widths in multiples of 16
    slot       products of a block of edges, and the message of every edge of it
    forward    the kernel of the messages
    backward   the kernel of their gradient, which computes every message again
    messages   both together as a function with a gradient

Legend: N residues, n = N rounded up to whole tiles of 64, K neighbours; R = 64 receivers of a tile, the rows
of a product; S scalars, H hidden vectors of the first GVP, C vectors of the others, V vectors of a residue,
E scalars of an edge and G coordinates of its vectors; F = S + 3 H; W = S + 3 V and what
fills a row up; P numbers of bfloat16 that stand for a float32.
"""
