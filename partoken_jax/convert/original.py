"""What a `state_dict` of the original holds: every key and its shape, for a given configuration."""

from itertools import pairwise

from partoken_jax.model_config import SCORE_WIDTH, THRESHOLD_WIDTH, ModelConfig

Shapes = dict[str, tuple[int, ...]]
RESIDUE_EMBEDDING = (20, 20)
"""Residue types, and channels of their embedding."""

# The two models name the parts of their encoder differently.
ENCODER_NAMES = {
    "gvp": {"residues": "W_s", "nodes": "W_v", "edges": "W_e", "layers": "layers", "output": "W_out"},
    "partoken": {
        "residues": "sequence_embedding",
        "nodes": "node_encoder",
        "edges": "edge_encoder",
        "layers": "gvp_layers",
        "output": "output_projection",
    },
}


def state_dict_shapes(config: ModelConfig) -> Shapes:
    """Keys and shapes that the original's `load_state_dict(strict=True)` asks for, in its order.

    With the parts that nothing computes with: empty `dummy_param`s, `cluster_attention`, and the codebook
    of a model that bypasses it (the original builds one in any case).
    """
    width = config.node_hidden[0]
    shapes = _encoder(config)
    if config.kind == "gvp":
        if config.pooling == "attention":
            shapes |= _linear("attention.0", width, width // 2) | _linear("attention.2", width // 2, 1)
        return shapes | _classifier((width, 2 * width, width, config.num_classes))
    hidden, codes = config.partitioner.hidden, config.codebook.size
    return {
        **shapes,
        "partitioner.epoch": (),
        **_linear("partitioner.seed_selector.0", width + hidden, hidden),
        **_linear("partitioner.seed_selector.3", hidden, 1),
        **_linear("partitioner.context_encoder", width, hidden),
        "partitioner.expander.Wq.weight": (SCORE_WIDTH, width),
        "partitioner.expander.Wk.weight": (SCORE_WIDTH, width),
        **_linear("partitioner.expander.threshold_head.mlp.0", width + hidden + 3, THRESHOLD_WIDTH),
        **_linear("partitioner.expander.threshold_head.mlp.2", THRESHOLD_WIDTH, 1),
        **{f"global_cluster_attn.{part}.weight": (width, width) for part in ("q", "k", "v", "out")},
        **_linear("fw_gate.beta_mlp.0", 2 * width, width // 2),
        **_linear("fw_gate.beta_mlp.3", width // 2, width),
        "fw_gate.proj_c.weight": (width, width),
        "fw_gate.ln.weight": (width,),
        "fw_gate.ln.bias": (width,),
        "codebook.embeddings": (codes, width),
        "codebook.ema_counts": (codes,),
        "codebook.ema_sums": (codes, width),
        **_linear("cluster_attention.0", width, width // 2),
        **_linear("cluster_attention.3", width // 2, 1),
        **_classifier((width, 4 * width, 2 * width, config.num_classes)),
    }


def _encoder(config: ModelConfig) -> Shapes:
    names = ENCODER_NAMES[config.kind]
    (scalars, vectors), hidden = config.node_in, config.node_hidden
    shapes: Shapes = {}
    if config.residue_types:
        shapes[f"{names['residues']}.weight"] = RESIDUE_EMBEDDING
        scalars += RESIDUE_EMBEDDING[1]
    shapes |= _norm(f"{names['nodes']}.0", scalars)
    shapes |= _gvp(f"{names['nodes']}.1", (scalars, vectors), hidden)
    shapes |= _norm(f"{names['edges']}.0", config.edge_in[0])
    shapes |= _gvp(f"{names['edges']}.1", config.edge_in, config.edge_hidden)
    message = tuple(2 * node + edge for node, edge in zip(hidden, config.edge_hidden, strict=True))
    wide = (4 * hidden[0], 2 * hidden[1])
    for number in range(config.num_layers):
        layer = f"{names['layers']}.{number}"
        shapes |= _gvps(f"{layer}.conv.message_func", (message, hidden, hidden, hidden))
        for part in (0, 1):
            shapes |= _norm(f"{layer}.norm.{part}", hidden[0])
        for part in (0, 1):
            shapes[f"{layer}.dropout.{part}.vdropout.dummy_param"] = (0,)
        shapes |= _gvps(f"{layer}.ff_func", (hidden, wide, hidden))
    return (
        shapes
        | _norm(f"{names['output']}.0", hidden[0])
        | _gvp(f"{names['output']}.1", hidden, (hidden[0], 0))
    )


def _gvps(name: str, dims: tuple) -> Shapes:
    shapes: Shapes = {}
    for number, (dims_in, dims_out) in enumerate(pairwise(dims)):
        shapes |= _gvp(f"{name}.{number}", dims_in, dims_out)
    return shapes


def _gvp(name: str, dims_in: tuple[int, ...], dims_out: tuple[int, ...]) -> Shapes:
    (si, vi), (so, vo) = dims_in, dims_out
    hidden = max(vi, vo) if vi else 0
    shapes: Shapes = {f"{name}.dummy_param": (0,)}
    if vi:
        shapes[f"{name}.wh.weight"] = (hidden, vi)
    shapes |= _linear(f"{name}.ws", si + hidden, so)
    if vi and vo:
        shapes[f"{name}.wv.weight"] = (vo, hidden)
    return shapes


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.scalar_norm.weight": (width,), f"{name}.scalar_norm.bias": (width,)}


def _linear(name: str, d_in: int, d_out: int) -> Shapes:
    return {f"{name}.weight": (d_out, d_in), f"{name}.bias": (d_out,)}


def _classifier(widths: tuple[int, ...]) -> Shapes:
    shapes: Shapes = {}
    for number, (d_in, d_out) in enumerate(pairwise(widths)):
        shapes |= _linear(f"classifier.{3 * number}", d_in, d_out)  # ReLU and dropout stand between
    return shapes
