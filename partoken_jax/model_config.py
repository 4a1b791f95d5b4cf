"""What a model is made of: every setting, its default, the values it may have, and when to change it.

The defaults are the published ParToken configuration (arXiv 2510.01632). The text under a field is also its
help on the command line.
"""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from partoken_jax.settings import (
    AtLeast1,
    AtLeast2,
    AtMost,
    BelowOne,
    Flag,
    NonNegative,
    Positive,
    Share,
    settings,
)

Kind = Literal["gvp", "partoken"]
"""The models that classify proteins."""
Pooling = Literal["mean", "max", "sum", "attention"]
Precision = Literal["float32", "tensorfloat32", "bfloat16"]

Width = Annotated[AtLeast1, AtMost(4096)]
Channels = tuple[Width, Width]  # numbers of scalars and of vectors
Temperature = Annotated[Positive, Field(ge=1e-6), AtMost(1e6)]
LossWeight = Annotated[NonNegative, AtMost(1e6)]
NODE_FEATURES, EDGE_FEATURES = (6, 3), (32, 1)  # scalars and vectors that `graphs.featurise` makes
SCORE_WIDTH, THRESHOLD_WIDTH = 64, 128  # in the partitioner; the published model has no settings for them


@settings
class PartitionerConfig:
    """How ParToken cuts a protein into clusters of residues. The GVP baseline does not use these settings."""

    max_clusters: Annotated[AtLeast1, AtMost(1000)] = 5
    """S, the number of rounds, each of which finds at most one cluster. More rounds cover more residues of
    long proteins and take more time."""
    hidden: Width = 50
    """Hidden width of the network that chooses seeds, and width of the vector that sums up the protein for
    it. Change it together with the width of the encoder."""
    k_hop: Annotated[AtLeast1, AtMost(100)] = 1
    """A cluster reaches at most this many steps along edges from its seed. Raise it for clusters that spread
    farther from their seed."""
    cluster_size_max: Annotated[AtLeast1, AtMost(10_000)] = 25
    """Largest number of residues in a cluster, the seed included. Raise it for larger clusters."""
    termination_threshold: Share = 0.95
    """A protein needs no further cluster once this share of its residues is in one. Lower it to leave more
    residues out of clusters."""
    kind: Literal["learned", "random", "whole"] = "learned"
    """Who makes the clusters: the network, as published ("learned"); chance, with clusters of the size that
    learned ones aim at around random residues ("random"); or nobody, so that the whole protein is one cluster
    and no other setting of the partitioner counts ("whole"). Choose one of the last two to see what learned
    clusters contribute."""
    start: Literal["random", "data"] = "random"
    """How clusters are before the first training step. "random": as the random weights have it, all residues
    near a seed or none of them, as in the published configuration. "data": of their expected size, whatever
    the seed, by three weights of the partitioner set from the first training batches. A partitioner that
    comes trained, by init_from, stays as it is. Choose "data" to train from random weights or from a
    pretrained encoder."""


@settings
class CodebookConfig:
    """The codes (tokens) that clusters are named by, learned by vector quantisation (VQ). The GVP baseline
    does not use these settings."""

    enabled: Flag = True
    """Whether the model has a codebook. Switch it off to see what the codebook contributes."""
    size: Annotated[AtLeast1, AtMost(1_000_000)] = 512
    """K, the number of codes. Lower it when many codes stay unused: a split of few clusters cannot use
    many."""
    beta: LossWeight = 0.25
    """Weight of the commitment loss within the VQ loss. Raise it when cluster features drift away from their
    codes."""
    decay: BelowOne = 0.99
    """How much of the moving averages that make the codes is kept at every step. Lower it when there are few
    steps, so that the codes follow sooner."""
    epsilon: Annotated[Positive, AtMost(1)] = 1e-5
    """Smooths the moving averages of how often codes are used, so that none is divided by zero. There is no
    reason to change it but to match other code."""
    metric: Literal["l2", "cosine"] = "l2"
    """Distance by which the nearest code is chosen. Choose "cosine" when only the direction of a cluster
    feature should count, seen from the mean cluster where `dimension` is set. The loss, the output and the
    moving averages always use the vectors as they are."""
    dimension: Width | None = None
    """Choose codes in a space of this many dimensions: the main directions in which cluster features differ,
    each scaled to variance 1. It is fitted to the clusters at the start of stage 1 and after every epoch in
    which the codes move. Without it, as published, codes are chosen among all channels as they are, where a
    few large ones decide. Set it, to 4 or so, when codes should tell more than the main direction apart; it
    keeps less of that one."""
    quantiser: Literal["vq", "residual", "fsq"] = "vq"
    """How a cluster gets its codes. "vq": the nearest code. "residual": further codebooks name what is left
    over (residual VQ), for features closer to the cluster's own; its token is the code of the first. "fsq":
    the cell of a fixed grid in the space of `dimension` (finite scalar quantisation), which needs no search
    and has no dead codes where features spread."""
    levels: Annotated[AtLeast2, AtMost(1000)] | None = None
    """Of "residual": the number of codebooks. Of "fsq": the number of cells along each dimension, so that
    size must be levels ** dimension. Set it with these quantisers only; more levels quantise more finely."""
    gradient: Literal["straight-through", "rotation"] = "straight-through"
    """What a quantised cluster passes back: the gradient of its code as it is ("straight-through"), or turned
    and scaled as the code lies to the cluster ("rotation", the rotation trick). It is felt where the
    classifier reads the codes, with classify_quantised; choose "rotation" when that costs accuracy."""
    keep_unused: Flag = True
    """Whether a code that no cluster chose keeps its value. Switch it off for the published rule, which moves
    unused codes to zero (docs/REFERENCE.md, fault 9)."""
    presence_temperature: Temperature = 0.3
    """Temperature of the soft assignment to codes in the coverage loss. Lower it to make the assignment
    harder."""
    classify_quantised: Flag = False
    """Whether the classifier reads the codes instead of the cluster features. Switch it on when a prediction
    should depend on tokens alone; published models leave it off."""

    def __post_init__(self) -> None:
        if (self.levels is None) != (self.quantiser == "vq"):
            raise ValueError(
                f"levels is {self.levels}, but must be set where quantiser is 'residual' or 'fsq', and only "
                f"there; quantiser is '{self.quantiser}'"
            )
        if self.quantiser != "fsq" or self.levels is None:
            return
        if self.dimension is None:
            raise ValueError(
                "dimension is None, but must be set where quantiser is 'fsq', because the grid lies in that "
                "space"
            )
        if self.size != self.levels**self.dimension:
            raise ValueError(
                f"size is {self.size}, but must be levels ** dimension = {self.levels**self.dimension:,} "
                "where quantiser is 'fsq'"
            )


@settings
class PretrainingConfig:
    """How the model that tells residue types ("residues") is trained. The other models do not use these
    settings."""

    masked: Share | None = None
    """Share of residues whose types training hides and asks for, where the model sees residue types. Without
    it, every protein draws its own share between 0 and 1, so that one model serves whatever is hidden. Set it
    to 0.15 to hide as few as language models do. A model that does not see types is asked for all."""
    noise: Annotated[NonNegative, AtMost(10)] = 0.0
    """Standard deviation in Å of Gaussian noise that training adds to every coordinate. Raise it to a few
    tenths when the model has learned its training proteins by heart."""


@settings
class ModelConfig:
    """The model, and how it is computed."""

    kind: Literal["gvp", "partoken", "residues"] = "partoken"
    """Which model: ParToken ("partoken"), or its baseline, the GVP-GNN without clusters and codes ("gvp").
    Choose the baseline to see what clusters and codes contribute, and "residues" to pretrain the encoder of
    either: it tells the type of each residue from the backbone."""
    num_classes: Annotated[AtLeast2, AtMost(100_000)] = 7
    """Number of classes that the model tells apart. Set it only when you build a model yourself: training
    takes it from the data, and conversion from the weights."""
    node_in: Channels = NODE_FEATURES
    """Numbers of scalars and vectors that describe a residue. Change them only with features of your own."""
    edge_in: Channels = EDGE_FEATURES
    """Numbers of scalars and vectors that describe an edge. Change them only with features of your own."""
    node_hidden: Channels = (100, 16)
    """Numbers of hidden scalars and vectors of a residue, the width of the model. Lower them for a smaller
    and faster model."""
    edge_hidden: Channels = (32, 1)
    """Numbers of hidden scalars and vectors of an edge. Change them together with node_hidden."""
    num_layers: Annotated[AtLeast1, AtMost(100)] = 3
    """Number of message passing layers. More layers let residues see farther and take more time."""
    dropout: BelowOne = 0.1
    """Share of channels that training sets to zero at random. Raise it when the model overfits."""
    pooling: Pooling = "sum"
    """How the residues of a protein become one vector. Choose "mean" or "max" if the length of a protein
    should count less; "attention" learns the weight of every residue."""
    norm_pooled: Flag = False
    """Whether that vector is normalised (LayerNorm) before anything reads it. Switch it on to learn sooner:
    without it, a sum over residues gives first logits that are far too large, and a mean far too small ones.
    Published models leave it off."""
    output_activation: Literal["relu", "silu"] = "relu"
    """Last activation of the encoder. "relu" is the published one, of which many channels are 0 for every
    residue; choose "silu" to keep all of them alive."""
    residue_types: Flag = False
    """Whether the model also sees which amino acid each residue is. Switch it on when the sequence may be
    used; published models see the backbone alone."""
    attention_heads: Width = 4
    """Number of heads with which ParToken attends from the whole protein to its clusters. Change it with the
    width of the model, because it must divide the number of hidden scalars of a residue."""
    message_passing: Literal["auto", "dense", "blocks", "fused", "general"] = "auto"
    """Forms of the same layers with the same numbers. "dense" is fast and needs the table of neighbours that
    batches carry, as do the next two. "blocks" computes the messages of 512 residues at a time, in the
    layout of a TPU. "fused" computes them in one kernel that keeps them on the chip; it is for training on
    TPUs, and elsewhere such a model is read as "dense". "auto" takes what `partoken tune` found
    to be right and fast on the device, else "blocks" on a TPU and "dense" elsewhere. Choose "general", the
    plain form, to read the code or for graphs without that table."""
    rematerialise: Literal["auto", "none", "layer", "chunk"] = "auto"
    """What the forward pass forgets and the backward pass computes again, to save memory. "none" forgets
    nothing; "layer" keeps only the residues between layers; "chunk" also computes edges a few residues at a
    time, which only the dense form does; it needs least memory and is fastest on a CPU. "auto" takes what
    `partoken tune` found on the device. Else it is, for the dense form, "chunk" on a CPU, "none" on a GPU
    where that takes no more than 4 GB (64 proteins of 300 residues at the published widths), and "layer"
    elsewhere; for the others it is "none". Set "layer" when memory runs out."""
    sender_gradient: Literal["auto", "scatter", "gather"] = "auto"
    """How the dense form sums the gradients of the edges that leave a residue: by adding in place ("scatter")
    or by reading through a reversed table ("gather"). "auto" takes what `partoken tune` found on the device,
    else "scatter" on a CPU or in chunks and "gather" elsewhere. Change it only to measure: message_passing
    "auto" is then "dense" on a TPU."""
    precision: Precision = "float32"
    """Precision of matrix products. "tensorfloat32" is faster on NVIDIA GPUs from 2020 on and the same as
    float32 on a CPU; "bfloat16" computes the whole encoder in bfloat16. Parameters, norms, sums and
    everything after the encoder stay in float32. Change it for speed; docs/guide/train.md says what it
    costs."""
    partitioner: PartitionerConfig = field(default_factory=PartitionerConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)

    def __post_init__(self) -> None:
        dense = self.message_passing in ("auto", "dense")
        if self.rematerialise == "chunk" and not dense:
            raise ValueError(
                "rematerialise is 'chunk', but must be 'auto', 'none' or 'layer' where "
                f"model.message_passing is '{self.message_passing}'"
            )
        if self.sender_gradient == "gather" and not (dense and self.rematerialise in ("none", "layer")):
            raise ValueError(
                "sender_gradient is 'gather', but must be 'auto' or 'scatter' unless "
                "model.message_passing is 'auto' or 'dense' and model.rematerialise is 'none' or 'layer'"
            )
        if (self.codebook.dimension or 0) > self.node_hidden[0]:
            raise ValueError(
                f"codebook.dimension is {self.codebook.dimension}, but must be at most the number of hidden "
                f"scalars of a residue, model.node_hidden[0] = {self.node_hidden[0]}"
            )
        if self.kind == "partoken" and self.node_hidden[0] % self.attention_heads:
            raise ValueError(
                f"attention_heads is {self.attention_heads}, but must divide the number of hidden scalars "
                f"of a residue, model.node_hidden[0] = {self.node_hidden[0]}"
            )
