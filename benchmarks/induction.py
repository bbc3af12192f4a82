"""Induction heads, found again: a two-layer GPT learns to look up what followed the last time; one layer cannot.

    python -m benchmarks.induction                two layers, one layer, and no repeats; figure and picture
    python -m benchmarks.induction --steps 200    a quick look, nothing stored

A training text is one stretch of n different random tokens, over and over; n is drawn anew for each text. There is
nothing to learn but this: the token that I read has occurred before, so what followed it then will follow now.
Everything is measured on stretches of other lengths, said twice. They are primes: no training text repeats anything at
such a distance, not even by chance of 2 · 8 being 16. (Olsson et al. 2022, "In-context Learning and Induction Heads".)
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.induction_picture import draw
from benchmarks.results import store
from lab.analysis.capture import capture
from lab.analysis.heads import induction_score, offset_score, previous_token_score
from lab.config import GPTConfig, OptimConfig
from lab.models.gpt import GPTModel, build_gpt
from lab.training.loss import summed_cross_entropy
from lab.training.optimizer import build_optimizer, set_learning_rate
from lab.training.schedule import learning_rate_at

VOCABULARY = 128
LENGTH = 64
HELD_OUT = (11, 17, 23, 29)
"""Lengths of the stretch that are never trained on: a copy lies exactly that far behind its original."""
TRAINED = tuple(n for n in range(4, 33) if n not in HELD_OUT)

WIDTH, HEADS = 64, 8
"""Heads of each layer. With 4, 2,000 steps and the same three seeds the best scored 0.98, 0.61 and 0.33, while the
loss of the second half fell to 0.00, 0.19 and 0.26: with few heads a model may spread the work or find another way."""

BATCH, STEPS, LOOK_EVERY = 32, 1_000, 50
OPTIM = OptimConfig(learning_rate=2e-3, weight_decay=0.01, warmup_steps=50)


def training_texts(generator: np.random.Generator, *, repeats: bool) -> Tensor:
    """int64 [BATCH, LENGTH + 1]: for each text a stretch of its own length, over and over; or no token twice."""
    rows = []
    for _ in range(BATCH):
        n = int(generator.choice(TRAINED)) if repeats else LENGTH + 1
        rows.append(np.resize(generator.permutation(VOCABULARY)[:n], LENGTH + 1))
    return torch.from_numpy(np.stack(rows))


def examination(n: int, n_texts: int = 20) -> tuple[Tensor, Tensor]:
    """Two times int64 [n_texts, 2n], always the same: n tokens said twice, and 2n different tokens."""
    generator = np.random.Generator(np.random.PCG64(n))
    order = torch.from_numpy(np.stack([generator.permutation(VOCABULARY)[: 2 * n] for _ in range(n_texts)]))
    return order[:, :n].repeat(1, 2), order


def train(n_layers: int, steps: int, seed: int, *, repeats: bool = True) -> dict[str, Any]:
    """Train one model; returns its curve, measured on held-out lengths at every look."""
    config = GPTConfig(vocab_size=VOCABULARY, context_length=LENGTH, emb_dim=WIDTH, n_layers=n_layers, n_heads=HEADS)
    model = build_gpt(config, seed=seed)
    optimizer = build_optimizer(model, OPTIM)
    generator = np.random.Generator(np.random.PCG64(seed))
    curve = [{"step": 0, **look(model)}]
    for step in range(steps):
        ids = training_texts(generator, repeats=repeats)
        inputs, labels = ids[:, :-1], ids[:, 1:]
        set_learning_rate(optimizer, learning_rate_at(step, OPTIM, steps))
        loss = summed_cross_entropy(model.hidden(inputs), model.out_head.weight, labels) / labels.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % LOOK_EVERY == 0:
            curve.append({"step": step + 1, **look(model)})
    last = curve[-1]
    print(
        f"{n_layers} layers{'' if repeats else ', no repeats'}, seed {seed}: induction {last['induction']:.3f} "
        f"(layer {last['induction_head'][0]}, head {last['induction_head'][1]}), previous token "
        f"{last['previous_token']:.3f}, same offsets without repeats {last['induction_unrepeated']:.3f}, loss of the "
        f"first half {last['first_half_loss']:.3f}, of the second {last['second_half_loss']:.3f}",
        flush=True,
    )
    return {"n_layers": n_layers, "trained_on_repeats": repeats, "seed": seed, "curve": curve}


@torch.no_grad()
def look(model: GPTModel) -> dict[str, Any]:
    """Scores of all heads and losses of both halves, on held-out lengths."""
    model.eval()
    induction, previous, unrepeated, first, second = [], [], [], [], []
    for n in HELD_OUT:
        twice, different = examination(n)
        attention = torch.stack(list(capture(model, twice).attention))  # [layer, batch, head, query_pos, key_pos]
        induction.append(induction_score(attention, twice).values)  # [layer, head]
        previous.append(previous_token_score(attention, twice).values)
        attention = torch.stack(list(capture(model, different).attention))
        unrepeated.append(offset_score(attention, n - 1).mean(1))
        losses = F.cross_entropy(
            model(twice)[:, :-1].transpose(1, 2), twice[:, 1:], reduction="none"
        )  # [batch, 2n − 1]
        first.append(losses[:, : n - 1].mean())
        second.append(losses[:, n:].mean())  # entry n − 1 is the copy's first token, which nobody can know
    model.train()
    score = torch.stack(induction).mean(0)  # [layer, head]
    best = divmod(int(score.argmax()), score.shape[1])
    return {
        "induction": score.max().item(),
        "induction_head": best,
        "induction_by_length": {str(n): values[best].item() for n, values in zip(HELD_OUT, induction, strict=True)},
        "induction_unrepeated": torch.stack(unrepeated).mean(0).max().item(),
        "previous_token": torch.stack(previous).mean(0).max().item(),
        "first_half_loss": torch.stack(first).mean().item(),
        "second_half_loss": torch.stack(second).mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1337, 1338, 1339])
    args = parser.parse_args()
    torch.set_num_threads(1)  # small matrices: a second thread costs more than it brings
    two = [train(2, args.steps, seed) for seed in args.seeds]
    one = [train(1, args.steps, seed) for seed in args.seeds[:1]]
    none = [train(2, args.steps, seed, repeats=False) for seed in args.seeds[:1]]
    if args.steps < STEPS:
        return
    setting = {
        "vocabulary": VOCABULARY,
        "length": LENGTH,
        "trained_lengths": TRAINED,
        "held_out_lengths": HELD_OUT,
        "d_model": WIDTH,
        "heads": HEADS,
        "steps": args.steps,
        "batch": BATCH,
    }
    store("induction", {"setting": setting, "runs": [*two, *one, *none]})
    picture = Path(__file__).parents[1] / "docs" / "images" / "induction.svg"
    draw(two, one, picture)
    print(f"drawn in {picture}")


if __name__ == "__main__":
    main()
