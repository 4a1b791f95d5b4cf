"""Building blocks, one concept per file: GVPs, message passing, pooling, partitioner, codebook, attention."""
