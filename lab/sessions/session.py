"""A handle to a model the lab knows: its tokenizer, its logits, text written by it, and what happens inside."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.analysis.capture import Capture, capture
from lab.analysis.checks import Checks
from lab.analysis.interventions import Edit, edited, switched_off
from lab.analysis.model_check import check_model
from lab.config import PretrainConfig
from lab.data.tokenizers import Tokenizer
from lab.errors import ModelError
from lab.models.cached_reader import CachedReader, end_tokens
from lab.models.families import Anatomy, anatomy
from lab.models.generate import SampledToken, Sampling, generate, write
from lab.models.gpt import GPTModel
from lab.models.shapes import Precision

BASE = "base"
"""The name of a session's model without any adapter."""


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
    ):
        """
        Args:
            ref: what opens the same model again.
            step: of the checkpoint; None for a model that was not trained here.
            config: the run's; None for a model that was not trained here.
        """
        self.ref, self.name, self.step = ref, name, step
        self.config, self.precision, self.folder = config, precision, folder
        self.model, self.tokenizer = model, tokenizer
        self.lock = threading.RLock()
        self.variant = BASE
        """The adapter that is active, or BASE."""
        self._adapters: list[str] = []

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
            if isinstance(self.model, GPTModel):
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
        if isinstance(self.model, GPTModel):
            tokens = generate(self.model, ids, sampling, end_of_text=end, stop=stop)
        else:
            reader, variant = CachedReader(self.model), self.variant
            ends = end_tokens(self.model) | (frozenset() if end is None else frozenset({end}))

            def read(so_far: Sequence[int]) -> Tensor:
                with self.using(variant):  # somebody may have switched the adapter since the last token
                    return reader(so_far)

            tokens = write(read, ids, sampling, ends=ends, stop=stop)
        while True:
            with self.lock:
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
            return capture(self.anatomy, ids.to(self.anatomy.device), **options)

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
        """The base, and every adapter that was added; one copy of the weights serves all of them."""
        return [BASE, *self._adapters]

    def add_adapter(self, folder: Path, name: str) -> None:
        """Put an adapter that PEFT wrote beside the base. The base stays active.

        Raises:
            ModelError: the folder holds none, or it does not fit this model.
        """
        from peft import PeftModel

        if name in self.variants:
            raise ModelError(f"There is already a variant {name!r}: choose another name.")
        if isinstance(self.model, GPTModel):
            raise ModelError("Adapters are for Hugging Face models; the lab's own GPT is trained as a whole.")
        if not (folder / "adapter_config.json").is_file():
            raise ModelError(f"{folder} holds no adapter: it needs adapter_config.json, as PEFT writes it.")
        with self.lock:
            try:
                # low_cpu_mem_usage: laid out without memory first, so that no random number is drawn from the
                # generator that a running training's neighbours share
                if isinstance(self.model, PeftModel):
                    self.model.load_adapter(str(folder), adapter_name=name, low_cpu_mem_usage=True)
                else:
                    self.model = PeftModel.from_pretrained(
                        self.model, str(folder), adapter_name=name, low_cpu_mem_usage=True
                    )
            except (ValueError, RuntimeError, OSError, KeyError) as error:
                raise ModelError(
                    f"The adapter in {folder} does not fit {self.name}: {str(error).splitlines()[0]}"
                ) from error
            self.model.eval()
            self._adapters.append(name)
            active, self.variant = self.variant, name  # PEFT has switched it on
            self._switch(active)

    @contextmanager
    def using(self, variant: str) -> Iterator[None]:
        """Ask the base, or one adapter, for as long as this lasts; then as before.

        Raises:
            ModelError: there is no such variant.
        """
        if variant not in self.variants:
            raise ModelError(f"There is no variant {variant!r} of {self.name}; there are {', '.join(self.variants)}.")
        with self.lock:
            before = self.variant
            self._switch(variant)
            try:
                yield
            finally:
                self._switch(before)

    def _switch(self, variant: str) -> None:
        """Make the model follow `variant`."""
        if variant == self.variant:
            return
        layers: Any = self.model.base_model
        if variant == BASE:
            layers.disable_adapter_layers()
        else:
            layers.enable_adapter_layers()
            self.model.set_adapter(variant)  # type: ignore[operator]
        self.variant = variant

    # -- size -------------------------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Memory of the weights."""
        seen = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self.model.parameters()}
        return sum(seen.values())
