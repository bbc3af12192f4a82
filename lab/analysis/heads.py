"""What kind of head is this? Scores with published definitions, sorted lists, and the difference of two models.

Three kinds have been found in nearly every language model, large or small:

- a **previous-token head** looks at the token before;
- a **duplicate-token head** looks at earlier places of the *same* token (Wang et al. 2022, "Interpretability in the
  Wild");
- an **induction head** looks at the token *after* an earlier place of the same token: having read `A B … A`, it looks
  at `B`, and copying that predicts how the text goes on (Olsson et al. 2022, "In-context Learning and Induction
  Heads"; the score is their *prefix matching* score).

All three scores are the same quantity for different targets: the share of attention that rests on the targets, averaged
over the queries that have one. A score needs its `chance`: what a head that attends to everything alike would get.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.analysis.attention import entropy, mean_distance, sink_share, visible_keys
from lab.errors import ModelError


@dataclass(frozen=True)
class Score:
    """One score of every head of a layer, or of all layers."""

    values: Tensor
    """[..., head], 0 to 1; NaN where the text has no query to judge by."""
    chance: float
    """The score of a head that spreads its attention evenly, on the same queries."""
    n_queries: int
    """Over how many queries the mean was taken: few queries, little to say."""


@dataclass(frozen=True)
class RankedHead:
    layer: int
    head: int
    value: float


# -- which keys count ------------------------------------------------------------------------------------


def previous_token_targets(ids: Tensor) -> Tensor:
    """int64 [batch, pos] -> bool [batch, query_pos, key_pos]: the key one place before the query."""
    batch, length = ids.shape
    place = torch.arange(length, device=ids.device)
    return (place == place[:, None] - 1).expand(batch, length, length)


def duplicate_token_targets(ids: Tensor) -> Tensor:
    """int64 [batch, pos] -> bool [batch, query_pos, key_pos]: earlier keys that hold the query's token."""
    same = ids[:, :, None] == ids[:, None, :]
    return same & _earlier(ids)


def induction_targets(ids: Tensor) -> Tensor:
    """int64 [batch, pos] -> bool [batch, query_pos, key_pos]: earlier keys that *follow* the query's token.

    Key k is a target of query q when token k−1 equals token q and k < q. (In `A A` the second A follows the first, but
    its own place is no target: looking at oneself is not induction.)
    """
    follows = torch.zeros(ids.shape[0], ids.shape[1], ids.shape[1], dtype=torch.bool, device=ids.device)
    follows[:, :, 1:] = ids[:, :, None] == ids[:, None, :-1]
    return follows & _earlier(ids)


def _earlier(ids: Tensor) -> Tensor:
    place = torch.arange(ids.shape[1], device=ids.device)
    return place < place[:, None]


# -- scores ----------------------------------------------------------------------------------------------


def target_score(attention: Tensor, targets: Tensor) -> Score:
    """The mean share of attention on `targets`, over the queries of all texts that have at least one.

    Args:
        attention: [..., batch, head, query_pos, key_pos].
        targets: bool [batch, query_pos, key_pos].
    """
    p = attention.to(torch.promote_types(attention.dtype, torch.float32))
    wanted = targets.to(p.device)
    chance, n_queries = even_spread(wanted)
    if n_queries == 0:
        return Score(p.new_full((*p.shape[:-4], p.shape[-3]), math.nan), math.nan, 0)
    # A query without a target has an empty sum, so the total over all queries is the total over the judged ones.
    on_target = torch.einsum("...bhqk,bqk->...h", p, wanted.to(p.dtype))
    return Score(on_target / n_queries, chance, n_queries)


def even_spread(targets: Tensor) -> tuple[float, int]:
    """What a head that spreads its attention evenly puts on `targets`, and over how many queries that is the mean.

    Args:
        targets: bool [batch, query_pos, key_pos].
    """
    judged = targets.any(-1)  # [batch, query_pos]
    n_queries = int(judged.sum())
    if n_queries == 0:
        return math.nan, 0
    seen = visible_keys(*targets.shape[-2:]).to(targets.device).sum(-1)  # [query_pos]
    return (targets.sum(-1) / seen)[judged].mean().item(), n_queries


def previous_token_score(attention: Tensor, ids: Tensor) -> Score:
    """Mean attention to the token before: attention [..., batch, head, query_pos, key_pos], ids [batch, pos]."""
    return target_score(attention, previous_token_targets(ids))


def duplicate_token_score(attention: Tensor, ids: Tensor) -> Score:
    """Mean attention to earlier places of the same token, over tokens that have one. NaN on a text without repeats."""
    return target_score(attention, duplicate_token_targets(ids))


def induction_score(attention: Tensor, ids: Tensor) -> Score:
    """Mean attention to what followed earlier places of the same token, over tokens that have one.

    Clearest on random tokens repeated once or more, where nothing but the repeat tells what comes next; on plain text
    a head may look at such a place for another reason. NaN on a text without repeats.
    """
    return target_score(attention, induction_targets(ids))


def offset_score(attention: Tensor, offset: int) -> Tensor:
    """Mean attention to the key `offset` places back, over the queries that have one:
    [..., query_pos, key_pos] -> [...].

    For tokens repeated with period n, induction is offset n − 1. Defined without repeats too, which makes the control:
    the same offset on tokens that do not repeat. NaN when no query reaches back that far.
    """
    p = attention.to(torch.promote_types(attention.dtype, torch.float32))
    return p.diagonal(offset=p.shape[-1] - p.shape[-2] - offset, dim1=-2, dim2=-1).mean(-1)


def head_stats(
    layers: Sequence[Tensor], ids: Tensor, *, windows: Sequence[int | None] | None = None
) -> dict[str, Tensor]:
    """Every figure of every head for one text, or a batch of equally long ones.

    Args:
        layers: for each layer [batch, head, query_pos, key_pos].
        ids: int64 [batch, pos].
        windows: for each layer its sliding window in tokens, or None.

    Returns:
        name -> [layer, head]: `entropy` (0 to 1, of the visible keys), `distance` (tokens), `sink`, `previous_token`,
        `duplicate_token`, `induction` (shares, 0 to 1). NaN where the text has nothing to judge by.
    """
    windows = [None] * len(layers) if windows is None else windows
    kinds = {
        "previous_token": previous_token_targets(ids),
        "duplicate_token": duplicate_token_targets(ids),
        "induction": induction_targets(ids),
    }
    rows: dict[str, list[Tensor]] = {name: [] for name in ("entropy", "distance", "sink", *kinds)}
    for attention, window in zip(layers, windows, strict=True):
        seen = visible_keys(*attention.shape[-2:], window=window)
        rows["entropy"].append(entropy(attention, visible=seen).nanmean((0, -1)))
        rows["distance"].append(mean_distance(attention).mean((0, -1)))
        rows["sink"].append(sink_share(attention).mean(0))
        for name, targets in kinds.items():
            rows[name].append(target_score(attention, targets).values)
    return {name: torch.stack(values) for name, values in rows.items()}


def ranked(values: Tensor, *, lowest_first: bool = False) -> list[RankedHead]:
    """All heads of [layer, head], largest value first; heads without a value (NaN) are left out."""
    heads = [
        RankedHead(layer, head, value)
        for layer, row in enumerate(values.tolist())
        for head, value in enumerate(row)
        if not math.isnan(value)
    ]
    return sorted(heads, key=lambda h: (h.value if lowest_first else -h.value, h.layer, h.head))


# -- two models ------------------------------------------------------------------------------------------


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """How different two rows of attention are, in bits: [..., key_pos] twice -> [...], 0 = the same, 1 = disjoint.

    Half the divergence of each from their mean (Lin 1991, "Divergence Measures Based on the Shannon Entropy"):
    symmetric, and finite also where one of the two is 0.
    """
    exact = torch.promote_types(torch.promote_types(p.dtype, q.dtype), torch.float32)
    p, q = p.to(exact), q.to(exact)
    middle = (p + q) / 2
    # Each term p ln(p/m) is taken as a whole: entropies of nearly equal rows would cancel to noise.
    nats = (_relative(p, middle) + _relative(q, middle)).sum(-1) / 2
    return (nats / math.log(2)).clamp(0, 1)


def _relative(p: Tensor, middle: Tensor) -> Tensor:
    """p ln(p / middle), 0 where p is 0."""
    return torch.where(p > 0, p * (p / middle.clamp(min=torch.finfo(p.dtype).tiny)).log(), torch.zeros_like(p))


def head_difference(before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Jensen-Shannon difference of every head between two captures of the same tokens: [layer, head], in bits.

    Args:
        before, after: for each layer [batch, head, query_pos, key_pos]; the mean is over texts and queries.

    Raises:
        ModelError: the captures do not have the same layers, heads and tokens.
    """
    shapes = [[tuple(layer.shape) for layer in capture] for capture in (before, after)]
    if shapes[0] != shapes[1]:
        one, other = (f"{len(s)} layers of {s[0] if s else '()'}" for s in shapes)
        raise ModelError(
            f"These two captures cannot be compared head by head: one has {one}, the other {other} [batch, head, "
            "query, key]; capture the same text with two models of the same shape and tokenizer."
        )
    return torch.stack([jensen_shannon(a, b.to(a.device)).mean((0, -1)) for a, b in zip(before, after, strict=True)])


# -- grouped-query attention -----------------------------------------------------------------------------


def kv_head_of(head: int, n_heads: int, n_kv_heads: int) -> int:
    """The key/value head that query head `head` reads: head // (n_heads / n_kv_heads).

    In grouped-query attention (Ainslie et al. 2023) neighbouring query heads share keys and values. A capture shows
    all query heads; those of one group see the same keys through different queries.

    Raises:
        ModelError: n_heads is not a multiple of n_kv_heads.
    """
    return head // _group_size(n_heads, n_kv_heads)


def kv_groups(n_heads: int, n_kv_heads: int) -> list[range]:
    """The query heads of each key/value head, in order.

    Raises:
        ModelError: n_heads is not a multiple of n_kv_heads.
    """
    size = _group_size(n_heads, n_kv_heads)
    return [range(start, start + size) for start in range(0, n_heads, size)]


def _group_size(n_heads: int, n_kv_heads: int) -> int:
    if n_kv_heads < 1 or n_heads % n_kv_heads:
        raise ModelError(
            f"{n_heads} query heads cannot share {n_kv_heads} key/value heads evenly; the model's config is damaged."
        )
    return n_heads // n_kv_heads


def as_rows(stats: dict[str, Tensor]) -> Iterable[dict[str, int | float | str]]:
    """[layer, head] figures as long rows (layer, head, name, value), finite ones only: what `head_stats` stores."""
    for name, values in stats.items():
        for layer, row in enumerate(values.tolist()):
            for head, value in enumerate(row):
                if math.isfinite(value):
                    yield {"layer": layer, "head": head, "name": name, "value": value}
