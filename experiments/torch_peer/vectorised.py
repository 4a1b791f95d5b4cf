"""The partitioner as segment operations over the whole batch: no host read, no shape that depends on values.

The steps of a round are numbered as in docs/REFERENCE.md, section 4.
"""

import torch
from torch import Tensor, nn
from torch_geometric.utils import lexsort, scatter

from experiments.torch_peer.partition import (
    SCORE_WIDTH,
    Partition,
    Rounds,
    enough_assigned,
    expected_size,
    gumbel,
)
from experiments.torch_peer.partitioner_parameters import PartitionerParameters


def partition_vectorised(
    module: PartitionerParameters,
    x: Tensor,
    mask: Tensor,
    edge_index: Tensor,
    batch: Tensor,
    num_proteins: int,
    temperature: Tensor | float,
    uniform: Tensor | None,
) -> Partition:
    """The partition of a batch by a `Partitioner`; arguments as its `forward`."""
    config, expander = module.config, module.expander
    sender, receiver = edge_index
    num_nodes, width = x.shape

    def per_protein(value: Tensor) -> Tensor:
        return scatter(value, batch, dim_size=num_proteins, reduce="sum")

    def per_residue(value: Tensor) -> Tensor:
        # Not value[batch]: on a GPU the gradient of that sorts the index first.
        return value.index_select(0, batch)

    def per_node(flag: Tensor, index: Tensor) -> Tensor:
        """Number of flagged edges [E] at each node."""
        return scatter(flag.to(x.dtype), index, dim_size=num_nodes, reduce="sum")

    position = torch.arange(num_nodes, device=x.device)
    count = per_protein(torch.ones_like(batch))
    first = count.cumsum(0) - count
    size = per_protein(mask.to(x.dtype))
    degree = per_node(torch.ones_like(sender), sender)

    # What does not change between rounds: the residue half of the seed MLP, and W_k x.
    seed_first, seed_rest = module.seed_selector[0], module.seed_selector[1:]
    assert isinstance(seed_first, nn.Linear)
    seed_hidden = nn.functional.linear(x, seed_first.weight[:, :width], seed_first.bias)
    context_weight = seed_first.weight[:, width:]
    keys = expander.Wk(x)

    available = mask
    cluster = torch.full_like(batch, -1)
    context = module.context_encoder(per_protein(x * mask[:, None]) / size.clamp(min=1.0)[:, None])
    active = torch.ones_like(size, dtype=torch.bool)
    features, masks, rounds, cardinality = [], [], [], x.new_zeros(())

    for number in range(config.max_clusters):
        # 1. A protein is done when enough of it is assigned.
        if number > 0:
            assigned = size - per_protein(available.to(x.dtype))
            active = active & ~enough_assigned(assigned, size, config.termination_threshold)

        # 2. Seed: hard choice forward, softmax backward.
        selectable = available & per_residue(active)
        logits = seed_rest(seed_hidden + per_residue(context @ context_weight.T)).squeeze(-1)
        if uniform is not None:
            logits = logits + gumbel(uniform[number])
        seed, soft = choose(logits / temperature, selectable, batch, num_proteins)
        exists = seed >= 0
        row = seed.clamp(min=0)
        is_seed = per_residue(exists) & (per_residue(row) == position)
        available = available & ~is_seed
        seed_weight = is_seed + (soft - soft.detach())
        x_seed = per_protein(seed_weight[:, None] * x)

        # 3. Candidates within k hops.
        from_seed = per_node(is_seed[sender], receiver)
        reached = is_seed | (from_seed > 0)
        for _ in range(config.k_hop - 1):
            reached = reached | (per_node(reached[sender], receiver) > 0)
        candidate = reached & available

        # 4. What the threshold sees of them.
        num_candidates = per_protein(candidate.to(x.dtype))
        inside = per_node(candidate[sender], receiver)
        links = per_protein(torch.stack([from_seed, inside], dim=-1) * candidate[:, None])
        pairs = num_candidates * (num_candidates - 1) / 2
        phi = torch.stack(
            [
                (num_candidates + 1.0).log(),
                links[:, 0] / degree[row].clamp(min=1.0),
                (links[:, 1] / 2) / pairs.clamp(min=1.0),
            ],
            dim=-1,
        )

        # 5. Score against the threshold.
        link_share = per_node(is_seed[receiver], sender) / degree.clamp(min=1.0)
        score = (keys * per_residue(expander.Wq(x_seed))).sum(-1) / SCORE_WIDTH**0.5 + 0.2 * link_share
        theta = expander.threshold_head(x_seed, context, phi)
        p = torch.where(candidate, ((score - per_residue(theta)) / temperature).sigmoid(), 0.0)

        # 6. Trim to the size limit: the largest p of each protein, first ones on ties.
        limit = config.cluster_size_max - 1
        trimmed = per_protein((p > 0.5).long()) > limit
        order = lexsort([-p.detach(), batch])
        rank = torch.empty_like(position).scatter_(0, order, position - per_residue(first))
        p = torch.where(~per_residue(trimmed) | (rank < limit), p, 0.0)

        # 7. Join.
        member = is_seed | (p > 0.5)
        available = available & ~member
        cluster = torch.where(member, number, cluster)

        # 8. Feature: the hard mean, plus the gradient (but not the value) of the soft mean.
        hard = per_protein(x * member[:, None]) / per_protein(member.to(x.dtype)).clamp(min=1.0)[:, None]
        weight = seed_weight + p
        soft_mean = per_protein(weight[:, None] * x) / per_protein(weight).clamp(min=1.0)[:, None]
        feature = torch.where(exists[:, None], hard + (soft_mean - soft_mean.detach()), 0.0)
        squared = (per_protein(p) - expected_size(num_candidates, config.cluster_size_max)).square()
        cardinality = cardinality + torch.where(exists, squared, 0.0).sum() / exists.sum().clamp(min=1)

        # 9. The context remembers what was taken.
        context = context + 0.1 * module.context_encoder(feature.detach())
        features.append(feature)
        masks.append(exists)
        rounds.append(Rounds(seed, p, theta, phi, link_share, trimmed))

    stacked = Rounds(*(torch.stack(parts) for parts in zip(*rounds, strict=True)))
    return Partition(torch.stack(features, 1), torch.stack(masks, 1), cluster, cardinality, stacked)


def choose(
    logits: Tensor,  # [N]
    selectable: Tensor,  # bool [N]
    batch: Tensor,  # int64 [N]
    num_proteins: int,
) -> tuple[Tensor, Tensor]:
    """Per protein, the selectable residue with the largest logit (the first on ties; -1 if none) [B], and
    the softmax over the selectable residues [N]."""
    num_nodes = logits.shape[0]
    fixed = logits.detach().masked_fill(~selectable, -torch.inf)
    top = scatter(fixed, batch, dim_size=num_proteins, reduce="max")[batch]
    position = torch.arange(num_nodes, device=logits.device)
    best = torch.where(selectable & (fixed == top), position, num_nodes)
    seed = torch.full((num_proteins,), num_nodes, device=logits.device).scatter_reduce(
        0, batch, best, reduce="amin"
    )
    # Masked before exp: a protein without selectable residues stays finite, in value and gradient.
    weight = torch.where(selectable, torch.where(selectable, logits - top, 0.0).exp(), 0.0)
    total = scatter(weight, batch, dim_size=num_proteins, reduce="sum")
    soft = weight / torch.where(total > 0, total, 1.0).index_select(0, batch)
    return torch.where(seed < num_nodes, seed, -1), soft
