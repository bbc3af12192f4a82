"""Reading on with any model, token by token, keeping keys and values of what was read."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lab.errors import ModelError
from lab.models.families import unwrapped
from lab.models.generate import next_logits
from lab.models.gpt import GPTModel, KVCache


def reader_of(model: nn.Module) -> Callable[[Sequence[int]], Tensor]:
    """What reads on with this model: ids so far -> scores of the next token, float32 [vocab] on the CPU.

    Each call's ids must begin with those of the call before.
    """
    inner = unwrapped(model)
    if isinstance(inner, GPTModel):
        cache = KVCache()
        return lambda ids: next_logits(inner, ids, cache)
    return CachedReader(model)


class CachedReader:
    """As `reader_of`, of a Hugging Face model."""

    def __init__(self, model: nn.Module):
        inner: Any = unwrapped(model)
        config = inner.config.get_text_config()
        self._model = model
        self._context = config.max_position_embeddings
        self._vocab = config.vocab_size
        self._cache = new_cache(inner)
        self._read = 0
        self._last_only = last_only(inner)

    @torch.no_grad()
    def __call__(self, ids: Sequence[int]) -> Tensor:
        """float32 [vocab] on the CPU. Past the context the window slides, and is read anew for each token.

        Raises:
            ModelError: no ids, or one outside the vocabulary.
        """
        if not ids or not 0 <= min(ids) <= max(ids) < self._vocab:
            raise ModelError(f"The prompt must have at least one token, each of 0 to {self._vocab - 1:,}.")
        if len(ids) > self._context:
            return self._scores(ids[-self._context :], None)
        scores = self._scores(ids[self._read :], self._cache)
        self._read = len(ids)
        return scores

    def _scores(self, ids: Sequence[int], cache: Any) -> Tensor:
        device = next(self._model.parameters()).device
        idx = torch.tensor([list(ids)], dtype=torch.int64, device=device)  # [1, pos]
        keeping = {"past_key_values": cache} if cache is not None else {}
        out = self._model(input_ids=idx, use_cache=cache is not None, **keeping, **self._last_only)
        return out.logits[0, -1].float().cpu()


def new_cache(inner: Any) -> Any:
    """Where a Hugging Face model keeps keys and values of what it has read."""
    from transformers import DynamicCache

    return DynamicCache(config=inner.config.get_text_config())


def last_only(inner: Any) -> dict[str, int]:
    """What to call a Hugging Face model with so that it computes the scores of the last position only, where it can."""
    takes_few = "logits_to_keep" in inspect.signature(inner.forward).parameters
    return {"logits_to_keep": 1} if takes_few else {}


def end_tokens(model: nn.Module) -> frozenset[int]:
    """Ids that end a text, as the model's own generation settings list them."""
    inner: Any = unwrapped(model)
    listed = getattr(getattr(inner, "generation_config", None), "eos_token_id", None)
    if listed is None:
        return frozenset()
    return frozenset([listed] if isinstance(listed, int) else listed)
