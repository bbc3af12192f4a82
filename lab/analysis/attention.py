"""What a pattern of attention looks like in numbers. Pure functions on attention weights.

Every function takes weights of shape [..., query_pos, key_pos]: one layer of a capture is [batch, head, query_pos,
key_pos], and `torch.stack(capture.attention)` puts `layer` in front. A row holds how much one query takes from each
key; it sums to 1, and keys after the query have weight 0. Sums are done in 32 bits at least, whatever came in.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def visible_keys(n_queries: int, n_keys: int | None = None, *, window: int | None = None) -> Tensor:
    """Which keys a query is allowed to see: bool [query_pos, key_pos].

    Args:
        n_keys: more keys than queries means that the queries are the last positions (a KV cache).
        window: of a sliding window layer, the number of keys seen, the query's own place included (Mistral's and
            Gemma's `sliding_window`).
    """
    n_keys = n_queries if n_keys is None else n_keys
    query = torch.arange(n_keys - n_queries, n_keys)[:, None]
    key = torch.arange(n_keys)
    seen = key <= query
    return seen if window is None else seen & (query - key < window)


def entropy(attention: Tensor, *, visible: Tensor | None = None) -> Tensor:
    """How widely each query spreads its attention: [..., query_pos], 0 = one key gets all, 1 = all alike.

    Shannon's entropy −Σ p ln p, divided by the logarithm of the number of *visible* keys, which is its largest
    possible value. Without the division early queries and sliding windows would look focused only because they have
    little to choose from. A query that sees one key has no choice, and its value is NaN: neither focused nor spread.

    Args:
        visible: bool, broadcastable to `attention`; everything up to the query's own place when left out.
    """
    p = _exact(attention)
    seen = visible_keys(*p.shape[-2:]).to(p.device) if visible is None else visible.to(p.device)
    choices = seen.sum(-1).to(p.dtype)  # [..., query_pos]
    nats = torch.special.entr(p).sum(-1)  # entr(0) = 0
    return torch.where(choices > 1, nats / choices.clamp(min=2).log(), math.nan)


def mean_distance(attention: Tensor) -> Tensor:
    """How far back each query looks on average, in tokens: [..., query_pos]. 0 is its own place, 1 the one before."""
    p = _exact(attention)
    n_queries, n_keys = p.shape[-2:]
    query = torch.arange(n_keys - n_queries, n_keys, device=p.device)[:, None]
    back = (query - torch.arange(n_keys, device=p.device)).to(p.dtype)
    return (p * back).sum(-1)


def sink_share(attention: Tensor, *, key: int = 0) -> Tensor:
    """Share of the attention that rests on one key, by default the first: [...], 0 to 1.

    Many heads of trained models park on the first token when they have nothing to fetch: the *attention sink* (Xiao et
    al. 2023, "Efficient Streaming Language Models with Attention Sinks"). The mean is over the queries *after* that
    key: the key itself, at position 0, has nowhere else to look, and would count as a sink in every model. NaN when no
    query comes after.
    """
    p = _exact(attention)
    past = p.shape[-1] - p.shape[-2]
    return p[..., max(0, key + 1 - past) :, key].mean(-1)


def mean_view(attention: Tensor) -> Tensor:
    """The mean over heads: [..., head, query_pos, key_pos] -> [..., query_pos, key_pos]. Rows still sum to 1."""
    return _exact(attention).mean(-3)


def rollout(layers: Sequence[Tensor], *, residual_share: float = 0.5) -> Tensor:
    """How much of each *input token* has reached each position after each layer, if only attention moved things.

    Attention rollout (Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers"): the weights of a layer,
    averaged over heads, say how positions are mixed; the stream that goes past attention is an identity matrix. With
    residual_share r, A = (1 − r) · mean over heads + r · I, and the rollout of layer l is A_l · A_{l−1} · … · A_0.
    A heuristic: it knows nothing of what values are carried, nor of the feed-forward.

    Args:
        layers: for each layer [batch, head, position, position], lowest first.
        residual_share: what the stream is worth beside attention; the paper takes one half.

    Returns:
        [layer, batch, position, input position]; each row sums to 1.
    """
    mixing = torch.stack([mean_view(weights) for weights in layers])  # [layer, batch, position, position]
    identity = torch.eye(mixing.shape[-1], dtype=mixing.dtype, device=mixing.device)
    steps = (1 - residual_share) * mixing + residual_share * identity
    reached = [steps[0]]
    for step in steps[1:]:
        reached.append(step @ reached[-1])
    return torch.stack(reached)


def _exact(attention: Tensor) -> Tensor:
    """16-bit weights add up to 1 only to three digits: sums are done in 32."""
    return attention.to(torch.promote_types(attention.dtype, torch.float32))
