"""What pretraining a GPT means to the trainer: the model, its loss, its evaluation and its samples."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lab.config import PretrainConfig
from lab.data.batches import MicroBatch, TextData, ValidationWindows
from lab.errors import DataError
from lab.models.generate import Sampling, generate
from lab.models.gpt import GPTModel, build_gpt
from lab.models.parts import training_flops_per_token
from lab.training.dropout import seed_dropout
from lab.training.evaluation import summed_loss
from lab.training.loss import summed_cross_entropy
from lab.training.precision import Precision

EVAL_TOKENS_AT_ONCE = 4_096
"""Evaluation keeps no activations, so it can read larger batches than training."""

SAMPLE_SEED = 0
SAMPLE_TEMPERATURE = 0.8


class PretrainTask:
    """A from-scratch GPT learning to continue a text.

    Args:
        model: train this one; None makes it from the config. A forecast gives one whose weights take no memory.
    """

    def __init__(self, config: PretrainConfig, data: TextData, device: torch.device, *, model: GPTModel | None = None):
        self.config = config
        self.data = data
        self.device = device
        self.model: GPTModel = model or build_gpt(
            config.model,
            seed=config.train.seed,
            attention_impl=config.compute.attention_impl,
            gradient_checkpointing=config.compute.gradient_checkpointing,
            device=device,
        )
        self.dropout_clock = seed_dropout(self.model, config.train.seed)
        self.precision = Precision("fp32", device)
        self.flops_per_token = training_flops_per_token(config.model)
        context = config.model.context_length
        self._validation = ValidationWindows(
            data.val,
            context_length=context,
            batch_size=max(config.train.batch_size, EVAL_TOKENS_AT_ONCE // context),
            eval_tokens=config.train.eval_tokens,
        )
        self._validation_bytes = data.tokenizer.count_bytes(self._validation.label_ids())
        self.prompts = list(config.train.sample_prompts) or [data.opening]
        for prompt in self.prompts:
            if not data.tokenizer.encode(prompt):
                raise DataError("A sample prompt is empty: give each at least one character.")

    def loss_sum(self, batch: MicroBatch) -> Tensor:
        """Cross-entropy of a micro-batch in nats, summed over its labels; a scalar with a gradient."""
        inputs, labels = batch.inputs.to(self.device), batch.labels.to(self.device)
        with self.precision.autocast():
            return summed_cross_entropy(self.model.hidden(inputs), self.model.out_head.weight, labels)

    def evaluate(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """The validation metrics, over the same windows each time; None when stopped half-way."""
        found = summed_loss(self, self._validation, stop)
        if found is None:
            return None
        total, metrics = found
        # Nats to bits, and tokens to bytes: the one figure that compares across tokenizers.
        return metrics | {"val/bits_per_byte": total / math.log(2) / self._validation_bytes}

    def samples(self, step: int, stop: Callable[[], bool]) -> list[dict[str, Any]]:
        """A continuation of each prompt, always from the same seed; empty when stopped or turned off."""
        if self.config.train.sample_tokens == 0:
            return []
        sampling = Sampling(
            temperature=SAMPLE_TEMPERATURE, max_new_tokens=self.config.train.sample_tokens, seed=SAMPLE_SEED
        )
        tokenizer = self.data.tokenizer
        rows = []
        for prompt in self.prompts:
            ids = tokenizer.encode(prompt)
            tokens = generate(self.model, ids, sampling, end_of_text=tokenizer.end_of_text, stop=stop)
            text = tokenizer.decode([token.id for token in tokens])
            if stop():
                return []
            rows.append(
                {
                    "step": step,
                    "prompt": prompt,
                    "text": text,
                    "seed": SAMPLE_SEED,
                    "sampling": {"temperature": SAMPLE_TEMPERATURE, "max_new_tokens": sampling.max_new_tokens},
                }
            )
        return rows
