"""A handle to a model the lab knows: its tokenizer, its logits, text written by it, and what happens inside."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.analysis.capture import Capture, capture, predicted_bytes
from lab.analysis.checks import Checks
from lab.analysis.interventions import Edit, edited, switched_off
from lab.analysis.model_check import check_model
from lab.config import PretrainConfig
from lab.data.tokenizers import Tokenizer
from lab.errors import ModelError
from lab.models.cached_reader import CachedReader, end_tokens
from lab.models.families import Anatomy, anatomy, unwrapped
from lab.models.generate import SampledToken, Sampling, generate, write
from lab.models.gpt import GPTModel
from lab.models.pretrained import available
from lab.models.shapes import Precision
from lab.sessions.variants import BASE, Weights


@dataclass(frozen=True)
class GeneratedPiece:
    """One written token. `text` is empty while the bytes of a character are still incomplete."""

    text: str
    token_id: int
    probability: float


class ModelSession:
    """A model, loaded and ready to be asked, from any thread: one lock, one question at a time.

    Hooks and adapters belong to the model, not to a question, so two questions at once would see each other's. A text
    that is being written holds the lock for one token at a time, and others get their turn in between.

    Base and adapter are two sessions over one copy of the weights: `of` makes the second one. Each follows its own
    variant whenever it has the lock, so neither has to know of the other.
    """

    def __init__(
        self,
        *,
        ref: str,
        name: str,
        model: nn.Module,
        tokenizer: Tokenizer,
        step: int | None = None,
        config: PretrainConfig | None = None,
        precision: Precision = "fp32",
        folder: Path | None = None,
        run_id: str | None = None,
    ):
        """
        Args:
            ref: what opens the same model again.
            step: of the checkpoint; None for a model that was not trained here.
            config: of the pretraining that made these weights; None for a model that was not pretrained here.
            run_id: of the run that this is a state of; None for a model that was not trained here.
        """
        self.ref, self.name, self.step, self.run_id = ref, name, step, run_id
        self.config, self.precision, self.folder = config, precision, folder
        self.tokenizer = tokenizer
        self.weights = Weights(model)
        self.variant = BASE
        """The adapter that this session follows, or BASE."""
        self._siblings: dict[tuple[str, str], ModelSession] = {}

    @property
    def model(self) -> nn.Module:
        """What is loaded; it follows this session's variant only within `lock`."""
        return self.weights.model

    @property
    def is_ours(self) -> bool:
        """Whether this is the lab's own GPT."""
        return isinstance(unwrapped(self.model), GPTModel)

    @property
    def lock(self) -> AbstractContextManager[None]:
        """One question at a time; the model follows this session's variant within it. May be taken again inside."""
        return self._turn()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with self.weights.lock, self.weights.following(self.variant):
            yield

    # -- reading ----------------------------------------------------------------------------------------

    def ids(self, text: str) -> Tensor:
        """A text as the model reads it: int64 [1, pos].

        Raises:
            DataError: the tokenizer does not know a character.
            ModelError: there is no token in it.
        """
        ids = self.tokenizer.encode(text)
        if not ids:
            raise ModelError("There is no token to read: type at least one character.")
        return torch.tensor([ids], dtype=torch.int64)

    @torch.no_grad()
    def logits(self, ids: Tensor) -> Tensor:
        """int64 [batch, pos] -> float32 [batch, pos, vocab]."""
        with self.lock:
            ids = ids.to(next(self.model.parameters()).device)
            if self.is_ours:
                return self.model(ids).float()
            return self.model(input_ids=ids, use_cache=False).logits.float()

    # -- writing ----------------------------------------------------------------------------------------

    def generate(
        self, prompt: str, sampling: Sampling, *, stop: Callable[[], bool] | None = None
    ) -> Iterator[GeneratedPiece]:
        """Continue a prompt, token by token, with the variant that is active now.

        Raises:
            DataError: the tokenizer does not know a character of the prompt.
            ModelError: the prompt is empty.
        """
        stream = self.tokenizer.decode_stream()
        ids = self.tokenizer.encode(prompt)
        for token in self._tokens(ids, sampling, stop):
            yield GeneratedPiece(stream.add(token.id), token.id, token.probability)

    def _tokens(
        self, ids: Sequence[int], sampling: Sampling, stop: Callable[[], bool] | None
    ) -> Iterator[SampledToken]:
        end = self.tokenizer.end_of_text
        inner = unwrapped(self.model)  # an adapter's matrices sit inside its layers
        if isinstance(inner, GPTModel):
            tokens = generate(inner, ids, sampling, end_of_text=end, stop=stop)
        else:
            ends = end_tokens(self.model) | (frozenset() if end is None else frozenset({end}))
            tokens = write(CachedReader(self.model), ids, sampling, ends=ends, stop=stop)
        variant = self.variant
        while True:
            with self.using(variant):  # somebody may have switched the adapter since the last token
                token = next(tokens, None)
            if token is None:
                return
            yield token

    # -- looking inside ---------------------------------------------------------------------------------

    @property
    def anatomy(self) -> Anatomy:
        """The model's parts, for the functions of lab.analysis; take `lock` around their use.

        Raises:
            ModelError: the family is unknown: the model can write, but not be looked into.
        """
        return anatomy(self.model)

    @cached_property
    def check(self) -> Checks:
        """What must hold before anything of this model is shown; measured once.

        Raises:
            ModelError: the family is unknown.
        """
        with self.lock:
            return check_model(self.anatomy)

    def capture(self, what: str | Tensor, **options: Any) -> Capture:
        """Attention and residual stream while the model reads a text, or ids [batch, pos].

        Args:
            options: those of `lab.analysis.capture.capture`.

        Raises:
            ModelError: the family is unknown or does not pass its checks, the text is empty or too long.
        """
        ids = self.ids(what) if isinstance(what, str) else what
        with self.lock:
            if not self.check.ok:
                raise ModelError(f"{self.name} can write text, but its inside cannot be shown: {self.check.sentence}")
            self._check_room(ids, options)
            return capture(self.anatomy, ids.to(self.anatomy.device), **options)

    def _check_room(self, ids: Tensor, options: Mapping[str, Any]) -> None:
        """What a capture takes is known before it is made."""
        sizes = {name: options[name] for name in ("points", "keep", "logits") if name in options}
        needed = predicted_bytes(self.anatomy, *ids.shape, **sizes)
        free, place = available(self.anatomy.device)
        if needed > free:
            raise ModelError(
                f"A capture of {ids.shape[1]:,} tokens takes {needed / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB of "
                f"{place} are free: shorten the text, or keep figures and a few heads instead of all weights."
            )

    @contextmanager
    def changed(
        self,
        *,
        heads_off: Iterable[tuple[int, int]] = (),
        edits: Mapping[tuple[str, int], Edit] | None = None,
    ) -> Iterator[None]:
        """Ask the model with heads, given as (layer, head), switched off, or points of the stream replaced.

        with session.changed(heads_off=[(3, 0)]):
            logits = session.logits(ids)
        """
        parts = self.anatomy
        with self.lock, switched_off(parts, heads_off), edited(parts, edits or {}):
            yield

    # -- base and adapters ------------------------------------------------------------------------------

    @property
    def variants(self) -> list[str]:
        """The base, and every adapter that lies on it; one copy of the weights serves all of them."""
        return [BASE, *self.weights.adapters]

    def add_adapter(self, folder: Path, name: str, *, tensors: dict[str, Tensor] | None = None) -> None:
        """Put an adapter that PEFT wrote beside the base. This session goes on following what it followed.

        Args:
            tensors: its weights where they do not lie in the folder, named as PEFT names them.

        Raises:
            ModelError: the folder holds none, or it does not fit this model.
        """
        self.weights.add(name, folder, title=self.name, tensors=tensors)

    def of(
        self, variant: str, *, ref: str, name: str, step: int | None = None, run_id: str | None = None
    ) -> "ModelSession":
        """Another session over the same weights, which follows `variant`; the same object each time.

        Args:
            ref: what opens it again.
            step, run_id: of the checkpoint that the adapter is.

        Raises:
            ModelError: there is no such variant.
        """
        self._known(variant)
        if (variant, ref) not in self._siblings:
            other = copy.copy(self)
            other.__dict__.pop("check", None)  # the adapter changes what is checked
            other.variant, other.ref, other.name, other.step, other.run_id = variant, ref, name, step, run_id
            self._siblings[variant, ref] = other
        return self._siblings[variant, ref]

    @contextmanager
    def using(self, variant: str) -> Iterator[None]:
        """Ask the base, or one adapter, for as long as this lasts; then as before.

        Raises:
            ModelError: there is no such variant.
        """
        with self.weights.lock:
            self._known(variant)
            before, self.variant = self.variant, variant
            try:
                with self.lock:
                    yield
            finally:
                self.variant = before

    def _known(self, variant: str) -> None:
        if variant not in self.variants:
            raise ModelError(f"There is no variant {variant!r} of {self.name}; there are {', '.join(self.variants)}.")

    # -- size -------------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        seen = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self.model.parameters()}
        return sum(seen.values())
