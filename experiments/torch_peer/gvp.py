"""Geometric vector perceptrons and their message passing (Jing et al. 2021).

Features are tuples (s, v): scalars s [..., D] and vectors v [..., 3, C]. Channels are the last axis of
both, so that every product is a plain `nn.Linear`.
"""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.utils import scatter

Dims = tuple[int, int]
Activation = Callable[[Tensor], Tensor] | None
Activations = tuple[Activation, Activation]
Features = tuple[Tensor, Tensor]

ACTIVATED: Activations = (F.relu, torch.sigmoid)
LINEAR: Activations = (None, None)

MIN_SQUARED_NORM = 1e-8


def squared_norm(v: Tensor) -> Tensor:
    """max(Σ x², 1e-8) over x, y, z: [..., 3, C] → [..., C]. The gradient is 0 under the clamp."""
    return (v * v).sum(dim=-2).clamp(min=MIN_SQUARED_NORM)


class GVP(nn.Module):
    """vh = W_h v;  s' = W_s [s, |vh|] + b;  v' = W_v vh, scaled by act_v(|v'|), or with `vector_gate`
    by sigmoid(W_g act_v(s') + b);  then act_s(s')."""

    def __init__(
        self,
        dims_in: Dims,
        dims_out: Dims,
        *,
        hidden: int | None = None,
        activations: Activations = ACTIVATED,
        vector_gate: bool = False,
    ):
        """`dims_*`: (scalar, vector) channels; `hidden`: width of vh, by default the larger vector width."""
        super().__init__()
        (si, vi), (so, self.vo) = dims_in, dims_out
        hidden = (hidden or max(vi, self.vo)) if vi else 0
        self.scalar_activation, self.vector_activation = activations
        self.wh = nn.Linear(vi, hidden, bias=False) if vi else None
        self.ws = nn.Linear(si + hidden, so)
        self.wv = nn.Linear(hidden, self.vo, bias=False) if vi and self.vo else None
        self.wsv = nn.Linear(so, self.vo) if self.wv is not None and vector_gate else None

    def forward(self, x: Features) -> Features:
        s, v = x
        if self.wh is None:
            pre = self.ws(s)
        else:
            vh = self.wh(v)
            pre = self.ws(torch.cat([s, squared_norm(vh).sqrt()], dim=-1))
        if self.wv is None:
            v = pre.new_zeros(*pre.shape[:-1], 3, self.vo)
        else:
            v = self.wv(vh)
            if self.wsv is not None:
                gate = self.wsv(_activate(self.vector_activation, pre)).sigmoid()
                v = v * gate.unsqueeze(-2)
            elif self.vector_activation is not None:
                v = v * self.vector_activation(squared_norm(v).sqrt()).unsqueeze(-2)
        return _activate(self.scalar_activation, pre), v


def _activate(activation: Activation, x: Tensor) -> Tensor:
    return x if activation is None else activation(x)


class TupleLayerNorm(nn.Module):
    """LayerNorm of the scalars; vectors are divided by their root mean square length, no parameters."""

    def __init__(self, dims: Dims):
        super().__init__()
        self.scalar_norm = nn.LayerNorm(dims[0])

    def forward(self, x: Features) -> Features:
        s, v = x
        if v.shape[-1] > 0:
            v = v / squared_norm(v).mean(dim=-1).sqrt()[..., None, None]
        return self.scalar_norm(s), v


class TupleDropout(nn.Module):
    """Dropout of scalars and of whole vectors."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Features) -> Features:
        s, v = x
        if not self.training or self.rate == 0.0:
            return x
        keep = F.dropout(v.new_ones(*v.shape[:-2], 1, v.shape[-1]), self.rate)
        return F.dropout(s, self.rate), v * keep


class Gather(torch.autograd.Function):
    """x[index] along the first axis. The gradient, which `cat` hands back as a strided slice, is made
    contiguous before it is summed: `index_add` takes its fast path on a CPU only then."""

    @staticmethod
    def forward(ctx, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.num_rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.num_rows, *grad.shape[1:]).index_add_(0, index, grad.contiguous()), None


class GVPConv(nn.Module):
    """Message for edge j→i: GVPs over [s_j, e_ij, s_i], [V_j, E_ij, V_i]; mean or sum over incoming edges."""

    def __init__(
        self,
        dims_in: Dims,
        dims_out: Dims,
        edge_dims: Dims,
        *,
        num_gvps: int = 3,
        aggregate: str = "mean",
        vector_gate: bool = False,
    ):
        """`num_gvps` message GVPs; all but the last are activated."""
        super().__init__()
        first = (2 * dims_in[0] + edge_dims[0], 2 * dims_in[1] + edge_dims[1])
        widths = [first] + [dims_out] * num_gvps
        activations = [ACTIVATED] * (num_gvps - 1) + [LINEAR]
        self.aggregate = aggregate
        self.message_func = nn.Sequential(
            *(
                GVP(a, b, activations=activation, vector_gate=vector_gate)
                for (a, b), activation in zip(itertools.pairwise(widths), activations, strict=True)
            )
        )

    def forward(self, x: Features, edge_index: Tensor, edge: Features) -> Features:
        sender, receiver = edge_index
        s, v = (
            torch.cat([Gather.apply(part, sender), own, Gather.apply(part, receiver)], dim=-1)
            for part, own in zip(x, edge, strict=True)
        )
        s, v = self.message_func((s, v))
        num_nodes = x[0].shape[0]
        s = scatter(s, receiver, dim_size=num_nodes, reduce=self.aggregate)
        # Flat: with two axes, scatter takes its fast path on a CPU.
        flat = scatter(v.flatten(1), receiver, dim_size=num_nodes, reduce=self.aggregate)
        return s, flat.unflatten(1, v.shape[1:])


class GVPConvLayer(nn.Module):
    """x ← norm0(x + drop(conv)); x ← norm1(x + drop(FF(x))), FF = 2 GVPs of width (4·ns, 2·nv)."""

    def __init__(
        self,
        node_dims: Dims,
        edge_dims: Dims,
        *,
        dropout: float = 0.1,
        num_gvps: int = 3,
        vector_gate: bool = False,
    ):
        super().__init__()
        wide = (4 * node_dims[0], 2 * node_dims[1])
        self.conv = GVPConv(node_dims, node_dims, edge_dims, num_gvps=num_gvps, vector_gate=vector_gate)
        self.norm = nn.ModuleList(TupleLayerNorm(node_dims) for _ in range(2))
        self.dropout = nn.ModuleList(TupleDropout(dropout) for _ in range(2))
        self.ff_func = nn.Sequential(
            GVP(node_dims, wide, vector_gate=vector_gate),
            GVP(wide, node_dims, activations=LINEAR, vector_gate=vector_gate),
        )

    def forward(self, x: Features, edge_index: Tensor, edge: Features) -> Features:
        x = self.norm[0](_add(x, self.dropout[0](self.conv(x, edge_index, edge))))
        return self.norm[1](_add(x, self.dropout[1](self.ff_func(x))))


def _add(x: Features, update: Features) -> Features:
    return x[0] + update[0], x[1] + update[1]
