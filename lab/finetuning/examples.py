"""One row of a data set as the model sees it.

Rows are turned into tokens by `lab.data.tokenizers.Tokenizer`, the lab's own interface, whatever the model: of another
people's model it is an `HFTokenizer`, whose `inner` is transformers' own with its chat template.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A conversation as tokens, and which of them are to be learnt."""

    ids: tuple[int, ...]
    """Token ids, with everything that the chat template adds."""
    learn: tuple[bool, ...]
    """learn[i]: token i is a target of the loss, predicted from the tokens before it. As long as `ids`."""
    row: int
    """Row number in the source, from 1."""

    @property
    def n_labels(self) -> int:
        """Tokens that count. The first token is never one: nothing stands before it."""
        return sum(self.learn[1:])
