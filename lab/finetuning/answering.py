"""An answer, token by token, up to where its frame ends it."""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from lab.models.cached_reader import end_tokens
from lab.models.families import unwrapped
from lab.models.generate import SampledToken, write
from lab.models.gpt import GPTModel
from lab.models.sampling import Sampling


def answer_tokens(
    model: nn.Module,
    read: Callable[[Sequence[int]], Tensor],
    ids: Sequence[int],
    sampling: Sampling,
    end: tuple[int, ...],
    stop: Callable[[], bool],
) -> Iterator[SampledToken]:
    """What a model says after `ids`, without the end.

    Args:
        read: ids so far -> scores of the next token, float32 [vocab] on the CPU; of this model.
        end: how the frame ends an answer, one token or several. Tokens that may be its beginning are held back until
            they turn out not to be.

    Raises:
        ModelError: the scores are not numbers.
    """
    ends = frozenset(end) if len(end) == 1 else frozenset()
    if not isinstance(unwrapped(model), GPTModel):
        ends |= end_tokens(model)
    held: list[SampledToken] = []
    for token in write(read, ids, sampling, ends=ends, stop=stop):
        held.append(token)
        while held and tuple(one.id for one in held) != end[: len(held)]:
            yield held.pop(0)
        if held and len(held) == len(end):
            return
    yield from held
