"""Writing text with a GPT: one token at a time, each drawn from what the model expects next.

for token in generate(model, tokenizer.encode("To be"), Sampling(seed=1), end_of_text=tokenizer.end_of_text):
    print(tokenizer.decode([token.id]), end="")
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lab.errors import ModelError
from lab.models.gpt import GPTModel, KVCache
from lab.models.sampling import Sampling, choose

__all__ = ["SampledToken", "Sampling", "generate", "write"]


@dataclass(frozen=True)
class SampledToken:
    """One written token."""

    id: int
    probability: float  # what the model itself gave it: softmax of the logits, before temperature, top-k and top-p


def generate(
    model: GPTModel,
    ids: Sequence[int],
    sampling: Sampling,
    *,
    end_of_text: int | None,
    stop: Callable[[], bool] | None = None,
    use_cache: bool = True,
) -> Iterator[SampledToken]:
    """Continue `ids`; tokens come out one by one, as they are drawn.

    The model sees at most the last `context_length` tokens. It is in eval mode while a token is computed and gets
    its mode back before the token is handed out. Torch's default generator is neither read nor moved.

    Args:
        ids: the prompt's token ids, of any length from 1.
        end_of_text: the id that ends a text; it is not handed out. None: the tokenizer has none.
        stop: looked at before every token; True ends the text.
        use_cache: keep keys and values of what was read. The same text, faster, until the context is full.

    Raises:
        ModelError: at the call, when the prompt is empty or holds an id outside the vocabulary; while
            writing, when the model's output is not a number.
    """
    if not ids:
        raise ModelError("The prompt is empty: give the model at least one token to continue.")
    vocabulary = model.config.vocab_size
    foreign = [id for id in ids if not 0 <= id < vocabulary]
    if foreign:
        raise ModelError(
            f"Token id {foreign[0]} in the prompt is outside this model's vocabulary of {vocabulary:,}: "
            "use the tokenizer that the model was trained with."
        )
    cache = KVCache() if use_cache else None
    ends = frozenset() if end_of_text is None else frozenset({end_of_text})
    return write(lambda so_far: next_logits(model, so_far, cache), ids, sampling, ends=ends, stop=stop)


def write(
    read: Callable[[Sequence[int]], Tensor],
    ids: Sequence[int],
    sampling: Sampling,
    *,
    ends: frozenset[int],
    stop: Callable[[], bool] | None = None,
) -> Iterator[SampledToken]:
    """The loop that writes with any model.

    Args:
        read: ids so far -> scores of the next token, float32 [vocab] on the CPU.
        ids: the prompt's.
        ends: ids that end a text.

    Raises:
        ModelError: while writing, when the scores are not numbers.
    """
    written = list(ids)
    generator = torch.Generator().manual_seed(sampling.seed)
    for _ in range(sampling.max_new_tokens):
        if stop is not None and stop():
            return
        logits = read(written)
        if not torch.isfinite(logits).all():
            raise ModelError(
                f"The model's scores after {len(written):,} tokens are not numbers: its weights are damaged, or "
                "training diverged. Choose an earlier checkpoint."
            )
        id = choose(logits, sampling, generator)
        if sampling.stop_at_end and id in ends:
            return
        written.append(id)
        yield SampledToken(id, float(logits.softmax(0)[id]))


def next_logits(model: GPTModel, ids: Sequence[int], cache: KVCache | None = None) -> Tensor:
    """Scores of every token that could follow `ids`: float32 [V] on the CPU.

    A cache must hold what earlier calls put there for a beginning of the same `ids`; only the rest is read.

    Past the context the window slides: each position becomes one earlier, and since position embeddings are
    added at the very bottom, every key and value of every layer changes. No cache survives that, so from
    then on the last `context_length` tokens are read anew for each token, cached or not.
    """
    window = ids[-model.config.context_length :]
    if len(ids) > len(window):
        cache = None
    unread = window[cache.length :] if cache is not None else window
    device = model.tok_emb.weight.device
    training = model.training
    model.eval()  # dropout would make the model forget at random what it reads
    try:
        with torch.inference_mode():
            idx = torch.tensor([unread], dtype=torch.int64, device=device)  # [1, T]
            last = model.hidden(idx, cache)[0, -1]  # [C]: only the last position's scores are asked for
            return model.out_head(last).float().cpu()
    finally:
        model.train(training)
