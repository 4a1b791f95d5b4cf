"""The partitioner as published: loops over proteins and residues, one host read per decision.

Same numbers and gradients as `vectorised.py`. On a GPU every `item` and `nonzero` waits until the device
has done all that was asked of it so far. Steps are numbered as in docs/REFERENCE.md, section 4.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from experiments.torch_peer.partition import (
    SCORE_WIDTH,
    Partition,
    Rounds,
    enough_assigned,
    expected_size,
    gumbel,
)
from experiments.torch_peer.partitioner_parameters import PartitionerParameters


class _Grown(NamedTuple):
    """What one round made of one protein of n residues."""

    seed: int  # in the flat batch, -1 if none
    trimmed: bool
    feature: Tensor  # [D]
    squared: Tensor  # []: squared distance of the soft size from the expected one
    theta: Tensor  # []
    phi: Tensor  # [3]
    p: Tensor  # [n]
    link_share: Tensor  # [n]


def partition_by_loops(
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
    config = module.config
    rows, stop = [], 0
    for protein in range(num_proteins):
        start, stop = stop, stop + int((batch == protein).sum())
        rows.append(slice(start, stop))
    # Each protein's own edges, counted from its first residue.
    edges = [edge_index[:, batch[edge_index[0]] == b] - r.start for b, r in enumerate(rows)]
    keys = module.expander.Wk(x)
    means = [x[r][mask[r]].sum(0) / mask[r].sum().clamp(min=1) for r in rows]
    context = module.context_encoder(torch.stack(means))

    available = mask.clone()
    cluster = torch.full_like(batch, -1)
    active = [True] * num_proteins
    features, masks, rounds, cardinality = [], [], [], x.new_zeros(())
    for number in range(config.max_clusters):
        logits = module.seed_selector(torch.cat([x, context[batch]], dim=-1)).squeeze(-1)
        if uniform is not None:
            logits = logits + gumbel(uniform[number])
        grown = []
        for protein, r in enumerate(rows):
            # 1. A protein is done when enough of it is assigned.
            if number > 0 and active[protein]:
                size = mask[r].sum()
                done = enough_assigned(size - available[r].sum(), size, config.termination_threshold)
                active[protein] = not done.item()
            if active[protein] and available[r].any().item():
                grown.append(
                    _grow(
                        module, number, x[r], keys[r], logits[r] / temperature, context[protein], r.start,
                        edges[protein], available[r], cluster[r], temperature,
                    )
                )  # fmt: skip
            else:
                zero = x.new_zeros(())
                none, size = x.new_zeros(x.shape[1]), x.new_zeros(r.stop - r.start)
                grown.append(_Grown(-1, False, none, zero, zero, x.new_zeros(3), size, size))

        feature = torch.stack([g.feature for g in grown])
        squared = [g.squared for g in grown if g.seed >= 0]
        if squared:
            cardinality = cardinality + torch.stack(squared).mean()
        # 9. The context remembers what was taken.
        context = context + 0.1 * module.context_encoder(feature.detach())
        seed = torch.tensor([g.seed for g in grown], device=x.device)
        features.append(feature)
        masks.append(seed >= 0)
        rounds.append(
            Rounds(
                seed=seed,
                soft_p=torch.cat([g.p for g in grown]),
                theta=torch.stack([g.theta for g in grown]),
                phi=torch.stack([g.phi for g in grown]),
                link_share=torch.cat([g.link_share for g in grown]),
                trimmed=torch.tensor([g.trimmed for g in grown], device=x.device),
            )
        )
    stacked = Rounds(*(torch.stack(parts) for parts in zip(*rounds, strict=True)))
    return Partition(torch.stack(features, 1), torch.stack(masks, 1), cluster, cardinality, stacked)


def _grow(
    module: PartitionerParameters,
    number: int,
    x: Tensor,  # [n, D]
    keys: Tensor,  # [n, 64]
    logits: Tensor,  # [n], divided by τ
    context: Tensor,  # [H]
    start: int,
    edges: Tensor,  # int64 [2, e]
    available: Tensor,  # bool [n], changed in place
    cluster: Tensor,  # int64 [n], changed in place
    temperature: Tensor | float,
) -> _Grown:
    """One cluster of one protein."""
    config, expander = module.config, module.expander
    sender, receiver = edges

    def count(flag: Tensor, index: Tensor) -> Tensor:
        """Number of flagged edges at each residue."""
        return x.new_zeros(len(x)).index_add(0, index, flag.to(x.dtype))

    # 2. Seed: hard choice forward, softmax backward.
    logits = logits.masked_fill(~available, -torch.inf)
    seed = int(logits.argmax())
    soft = logits.softmax(0)
    hard = torch.zeros_like(soft)
    hard[seed] = 1.0
    seed_weight = hard + (soft - soft.detach())
    x_seed = seed_weight @ x
    available[seed] = False
    cluster[seed] = number

    # 3. Candidates within k hops, one by one.
    reached = hard
    for _ in range(config.k_hop):
        reached = reached + count(reached[sender] > 0, receiver)
    candidates = []
    for residue in reached.nonzero()[:, 0]:
        i = int(residue)
        if available[i].item():
            candidates.append(i)
    index = torch.tensor(candidates, dtype=torch.int64, device=x.device)
    candidate = torch.zeros_like(available)
    candidate[index] = True

    # 4. What the threshold sees of them.
    n = len(candidates)
    degree = count(torch.ones_like(sender), sender)
    from_seed = ((sender == seed) & candidate[receiver]).sum().item()
    inside = (candidate[sender] & candidate[receiver]).sum().item()
    num_candidates = x.new_tensor(n)
    share = from_seed / max(degree[seed].item(), 1)
    density = (inside / 2) / max(n * (n - 1) / 2, 1)
    phi = torch.stack([(num_candidates + 1).log(), x.new_tensor(share), x.new_tensor(density)])

    # 5. Score against the threshold.
    links = count(receiver == seed, sender)
    link_share = x.new_tensor([links[i].item() / max(degree[i].item(), 1) for i in candidates])
    theta = expander.threshold_head(x_seed, context, phi)
    score = keys[index] @ expander.Wq(x_seed) / SCORE_WIDTH**0.5 + 0.2 * link_share
    p = ((score - theta) / temperature).sigmoid()

    # 6. Trim to the size limit.
    read = [value.item() for value in p.detach()]
    kept = [k for k in range(n) if read[k] > 0.5]
    trimmed = len(kept) > config.cluster_size_max - 1
    if trimmed:
        kept = sorted(kept, key=lambda k: -read[k])[: config.cluster_size_max - 1]
        keep = torch.zeros_like(p)
        for k in kept:
            keep[k] = 1.0
        p = p * keep

    # 7. Join.
    for k in kept:
        available[candidates[k]] = False
        cluster[candidates[k]] = number

    # 8. Feature: the hard mean, plus the gradient (but not the value) of the soft mean.
    members = torch.tensor([seed, *(candidates[k] for k in kept)], device=x.device)
    p = x.new_zeros(len(x)).index_add(0, index, p)
    weight = seed_weight + p
    soft_mean = weight @ x / weight.sum().clamp(min=1.0)
    feature = x[members].mean(0) + (soft_mean - soft_mean.detach())
    squared = (p.sum() - expected_size(num_candidates, config.cluster_size_max)).square()
    return _Grown(start + seed, trimmed, feature, squared, theta, phi, p, links / degree.clamp(min=1))
