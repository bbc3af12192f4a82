"""What memory is spent on."""

from typing import Literal, get_args

Kind = Literal[
    "weights",
    "quantisation_state",
    "adapters",
    "gradients",
    "optimizer",
    "activations",
    "weight_copies",
    "logits",
    "temporary",
    "checkpoint_copy",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

MEANING: dict[Kind, str] = {
    "weights": "The model's parameters.",
    "quantisation_state": "Scales and tables that turn 4-bit weights back into numbers.",
    "adapters": "LoRA's small matrices: the only weights that train.",
    "gradients": "One number per weight that trains: which way it would have to move.",
    "optimizer": "AdamW's two running averages per weight that trains.",
    "activations": "What the forward pass keeps for the backward pass; grows with batch and length.",
    "weight_copies": "16-bit copies of the matrices, made by autocast and kept until the backward pass.",
    "logits": "Scores of every token of the vocabulary, and their gradient.",
    "temporary": "Results that live only while an operation or its neighbours run.",
    "checkpoint_copy": "A copy of weights and optimizer, written to disk while training goes on.",
}
