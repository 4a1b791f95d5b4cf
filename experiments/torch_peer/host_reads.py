"""Counts how often the host reads from the device."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "unique_dim", "_unique2",
    # In inference mode these are not taken apart into the first one.
    "item", "is_nonzero",
}  # fmt: skip


class HostReads(TorchDispatchMode):
    """`with HostReads() as reads: ...`; then `reads.count`.

    Sees every operation that PyTorch runs, forward and backward: values read (`item`, `bool`), results whose
    shape depends on values (`nonzero`, indexing by a mask), and copies to the CPU. On a GPU each of them
    waits for the device; on a CPU they are counted the same.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        to_host = name == "_to_copy" and args[0].is_cuda and str(kwargs.get("device", "cuda")) == "cpu"
        by_mask = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        )
        repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        self.count += name in _READS or to_host or by_mask or repeats
        return func(*args, **kwargs)
