"""The tuned lens: a learned translation of each layer's stream into the language of the last.

Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens": for every layer an affine map
h -> h + A h + b, trained so that what the readout makes of it comes as close as possible to the model's own answer
(the KL divergence from it, the model itself frozen). It starts as the identity, which is the logit lens, so whatever it
gains is translation. The last row already speaks the language and is left alone.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.analysis.readout import read_out
from lab.analysis.recording import record_rows
from lab.errors import DataError, ModelError
from lab.files import write_atomically
from lab.models.families import Anatomy

_LOGITS_AT_ONCE = 1 << 22
"""Positions per step × vocabulary: all rows' gradients of this many logits fit into some 100 MB."""


@dataclass(frozen=True)
class TunedLens:
    """For each row h -> h + matrices[row] h + offsets[row]."""

    matrices: Tensor
    """float32 [row, d_model, d_model]; the last one is 0."""
    offsets: Tensor
    """float32 [row, d_model]; the last one is 0."""

    def translate(self, row: int, stream: Tensor) -> Tensor:
        """[..., d_model] -> [..., d_model]: what `lab.analysis.lenses.read_lens` takes as `translate`."""
        x = stream.to(self.matrices)
        return x + x @ self.matrices[row].T + self.offsets[row]

    def save(self, path: Path) -> None:
        """Write it as a safetensors file.

        Raises:
            LabError: the folder cannot be written.
        """
        from safetensors.torch import save_file

        write_atomically(path, lambda part: save_file({"matrices": self.matrices, "offsets": self.offsets}, part))

    @staticmethod
    def load(path: Path) -> "TunedLens":
        """Read what `save` wrote.

        Raises:
            ModelError: it is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            return TunedLens(tensors["matrices"], tensors["offsets"])
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(f"The tuned lens {path} cannot be read ({error}); train it again.") from error


@dataclass(frozen=True)
class LensTraining:
    """A trained lens, and what training it gained."""

    lens: TunedLens
    before: Tensor
    """[row], nats: KL(model ‖ logit lens) on positions held out from training."""
    after: Tensor
    """[row], nats: the same with the tuned lens."""
    steps: int
    """Steps done: fewer than asked for when the time was up."""


def train_tuned_lens(
    parts: Anatomy,
    batches: Iterable[Tensor],
    *,
    steps: int = 200,
    learning_rate: float = 1e-3,
    seed: int = 0,
    seconds: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LensTraining:
    """Train a lens on streams of a corpus. The model does not change.

    Args:
        batches: each [row, n, d_model] as `lens_rows` orders them, without end or at least `steps + 1` of them
            (`corpus_streams` makes them). The first is held out and judges the result.
        steps: at most this many; the learning rate falls linearly to 0 over them.
        seed: of the generator that picks positions where a batch has more than a step can hold.
        seconds: a budget; the rate then reaches 0 at whichever ends first. Two trainings agree to the bit only
            without one.
        progress: told (steps done, steps) after each.

    Raises:
        DataError: `batches` ended before the first step.
    """
    generator = torch.Generator().manual_seed(seed)
    n_positions = max(16, _LOGITS_AT_ONCE // parts.vocab_size)

    def pick(batch: Tensor) -> Tensor:
        batch = batch.float()
        chosen = torch.randperm(batch.shape[1], generator=generator)[:n_positions]
        return batch[:, chosen.to(batch.device)]

    supply = iter(batches)
    held_out = next(supply, None)
    first = next(supply, None)
    if held_out is None or first is None:
        raise DataError("A tuned lens needs at least two batches of text: take a longer corpus.")
    held_out = pick(held_out)
    n_rows, _, d_model = held_out.shape
    # Streams differ in size by factors of 1,000 between models, layers and single dimensions. The map is learned from
    # inputs of size 1 to outputs of the stream's own size, so that one learning rate serves all; folded in at the end.
    size_in = first.float().square().mean(1).sqrt().clamp(min=1e-6)  # [row, d_model]
    size_out = first.float().square().mean(-1).sqrt().median(dim=1).values[:, None]  # [row, 1]; a sink is an outlier
    device = first.device
    matrices = torch.zeros(n_rows - 1, d_model, d_model, device=device, dtype=torch.float32, requires_grad=True)
    offsets = torch.zeros(n_rows - 1, d_model, device=device, dtype=torch.float32, requires_grad=True)
    optimizer = torch.optim.Adam([matrices, offsets], lr=learning_rate)

    def translated(row: int, stream: Tensor) -> Tensor:
        return stream + size_out[row] * ((stream / size_in[row]) @ matrices[row].T + offsets[row])

    started, done = time.monotonic(), 0
    batch: Tensor | None = first
    while batch is not None and done < steps:
        spent = 0.0 if seconds is None else (time.monotonic() - started) / seconds
        if spent >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 - max(done / steps, spent))
        chosen = pick(batch)
        with torch.no_grad():
            own = read_out(parts, chosen[-1]).log_softmax(-1)
        with torch.enable_grad():
            for row in range(n_rows - 1):  # one row's logits at a time; rows share nothing
                _divergence(parts, translated(row, chosen[row]), own).mean().backward(inputs=[matrices, offsets])
        optimizer.step()
        optimizer.zero_grad()
        done += 1
        if progress is not None:
            progress(done, steps)
        batch = next(supply, None)

    with torch.no_grad():
        folded = size_out[:-1, :, None] * matrices / size_in[:-1, None, :]
        zero = torch.zeros_like(matrices[:1])
        lens = TunedLens(torch.cat([folded, zero]).detach(), torch.cat([size_out[:-1] * offsets, zero[:, 0]]).detach())
        own = read_out(parts, held_out[-1]).log_softmax(-1)
        before = [_divergence(parts, held_out[row], own).mean() for row in range(n_rows)]
        after = [_divergence(parts, lens.translate(row, held_out[row]), own).mean() for row in range(n_rows)]
    return LensTraining(lens, torch.stack(before), torch.stack(after), done)


def corpus_streams(
    parts: Anatomy, tokens: NDArray[np.integer], *, length: int, batch_size: int = 8, seed: int = 0
) -> Iterator[Tensor]:
    """Endless batches of streams over random windows of a corpus: each [layer + 1, batch · pos, d_model].

    Args:
        tokens: the corpus as token ids; validation text, or the lens learns what the model memorised.
        length: of a window, in tokens; at most the model's context.
        seed: of the generator that places the windows.

    Raises:
        DataError: the corpus is shorter than a window.
    """
    if len(tokens) < length:
        raise DataError(f"The text has {len(tokens):,} tokens, and a window needs {length:,}: take a longer one.")
    generator = np.random.Generator(np.random.PCG64(seed))
    while True:
        starts = generator.integers(0, len(tokens) - length + 1, size=batch_size)
        ids = torch.from_numpy(np.stack([tokens[s : s + length] for s in starts]).astype(np.int64))
        yield record_rows(parts, ids).flatten(1, 2)


def _divergence(parts: Anatomy, stream: Tensor, own: Tensor) -> Tensor:
    """KL(own ‖ what the readout makes of `stream`), nats: [n, d_model] and log probabilities [n, vocab] -> [n]."""
    log_p = read_out(parts, stream).log_softmax(-1)
    return torch.where(own.exp() > 0, own.exp() * (own - log_p), 0.0).sum(-1)
