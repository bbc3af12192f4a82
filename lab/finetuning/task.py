"""What fine-tuning means to the trainer: the model, its loss on rows, its evaluation, its answers on the way."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.config import FineTuneConfig
from lab.data.batches import IGNORE, MicroBatch
from lab.data.tokenizers import Tokenizer
from lab.finetuning.answering import answer_tokens
from lab.finetuning.batches import RowBatch, ValidationRows
from lab.finetuning.datasets import Prepared
from lab.models.cached_reader import reader_of
from lab.models.families import unwrapped
from lab.models.generate import Sampling
from lab.models.gpt import GPTModel
from lab.training.contracts import Row
from lab.training.dropout import seed_dropout
from lab.training.evaluation import summed_loss
from lab.training.loss import summed_cross_entropy
from lab.training.precision import Precision

QUESTIONS = 3
"""Asked at each evaluation when the config names none."""

_SAME_SCORES = 1e-3  # relative; a bent or scaled output layer differs by far more


class FineTuneTask:
    """A model that learns answers.

    Args:
        model: with its adapter, or with every weight to train.
        device: where the model is.
    """

    def __init__(
        self, model: nn.Module, config: FineTuneConfig, data: Prepared, tokenizer: Tokenizer, precision: Precision
    ):
        self.model = model
        self.config = config
        self.data = data
        self.tokenizer = tokenizer
        self.precision = precision
        self.device = precision.device
        self.dropout_clock = seed_dropout(model, config.train.seed)
        self.flops_per_token = _flops_per_token(model)
        self._validation = ValidationRows(
            data.val, batch_size=config.train.batch_size, eval_tokens=config.train.eval_tokens
        )
        self._is_plain = self._reads_plainly()
        self.questions = list(config.train.sample_prompts) or data.questions(QUESTIONS)

    @property
    def causal(self) -> Any:
        """The language model inside the adapter's wrapper: what its layers became is seen from here, too."""
        return unwrapped(self.model)

    def loss_sum(self, batch: MicroBatch) -> Tensor:
        """Cross-entropy of a micro-batch in nats, summed over its labels; a scalar with a gradient."""
        inputs, labels = batch.inputs.to(self.device), batch.labels.to(self.device)
        positions = batch.positions if isinstance(batch, RowBatch) else None
        with self.precision.autocast():
            if self._is_plain:
                counted = labels != IGNORE  # the rest, often most of it, needs no output layer
                hidden = self._hidden(inputs, positions)[counted]  # [label, d_model]
                return summed_cross_entropy(hidden, self._output.weight, labels[counted])
            logits = self.causal(input_ids=inputs, use_cache=False, **self._placed(positions)).logits
            return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum")

    def evaluate(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """The validation loss, over the same rows each time; None when stopped half-way."""
        found = summed_loss(self, self._validation, stop)
        return None if found is None else found[1]

    @torch.no_grad()
    def samples(self, step: int, stop: Callable[[], bool]) -> list[Row]:
        """An answer to each question, always the likeliest; empty when stopped or turned off."""
        length = self.config.train.sample_tokens
        if length == 0:
            return []
        sampling = Sampling(temperature=0.0, max_new_tokens=length, seed=0)
        rows: list[Row] = []
        self.model.eval()
        try:
            for question in self.questions:
                with self.precision.autocast():
                    text = self.answer(self.data.prompt_ids(question), sampling, stop)
                if stop():
                    return []
                said = {"temperature": 0.0, "max_new_tokens": length}
                rows.append({"step": step, "prompt": question, "text": text, "seed": 0, "sampling": said})
        finally:
            self.model.train()
        return rows

    def answer(self, ids: Sequence[int], sampling: Sampling, stop: Callable[[], bool]) -> str:
        """What the model says after these tokens, up to where the frame ends an answer."""
        tokens = answer_tokens(self.model, reader_of(self.model), ids, sampling, self.data.frame.end, stop)
        return self.tokenizer.decode([token.id for token in tokens])

    # -- inside -----------------------------------------------------------------------------------------

    @property
    def _output(self) -> nn.Linear:
        causal = self.causal
        return causal.out_head if isinstance(causal, GPTModel) else cast(nn.Linear, causal.get_output_embeddings())

    def _hidden(self, inputs: Tensor, positions: Tensor | None) -> Tensor:
        """What the output layer reads: [batch, pos, d_model]."""
        if isinstance(self.causal, GPTModel):
            return self.causal.hidden(inputs)
        return self.causal.get_decoder()(input_ids=inputs, use_cache=False, **self._placed(positions)).last_hidden_state

    def _placed(self, positions: Tensor | None) -> dict[str, Tensor]:
        return {} if positions is None else {"position_ids": positions.to(self.device)}

    @torch.no_grad()
    def _reads_plainly(self) -> bool:
        """Whether the scores are the output matrix times the last state, nothing added, bent or scaled: then the loss
        needs no whole table of scores. Measured, not looked up."""
        causal = self.causal
        if isinstance(causal, GPTModel):
            return True
        output = causal.get_output_embeddings()
        if type(output) is not nn.Linear or output.bias is not None:
            return False
        inputs = torch.tensor([self.data.train[0].ids[:8]], device=self.device)
        was_training = self.model.training
        self.model.eval()
        hidden = self._hidden(inputs, None)
        plain, real = output(hidden).float(), causal(input_ids=inputs, use_cache=False).logits.float()
        self.model.train(was_training)
        return bool((plain - real).abs().max() <= _SAME_SCORES * real.abs().max())


def _flops_per_token(model: nn.Module) -> int:
    """Forward, and backward to what trains: 4 per frozen matrix weight (its own gradient is never needed), 6 per weight
    that trains. Attention's own products are left out: at a fine-tuning's lengths they are a few percent."""
    total = 0
    for module in model.modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            weight: Any = module.weight
            state = getattr(weight, "quant_state", None)
            count = state.shape.numel() if state is not None else weight.numel()
            total += (6 if weight.requires_grad else 4) * count
    return total
