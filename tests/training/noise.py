"""Other threads of the process doing what would disturb a careless trainer."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn


@contextmanager
def beside(work: Callable[[], None], *, rounds: list[int] | None = None) -> Iterator[None]:
    """Call `work` again and again in another thread; `rounds` gets the number of times that it came to its end.

    Raises:
        what `work` raised.
    """
    done = threading.Event()
    problems: list[BaseException] = []
    count = 0

    def repeat() -> None:
        nonlocal count
        try:
            while not done.is_set():
                work()
                count += 1
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        if rounds is not None:
            rounds.append(count)
    if problems:
        raise problems[0]


def draw_random_numbers() -> None:
    """From the generator that all threads share, and reseed it."""
    torch.manual_seed(0)
    nn.Linear(8, 8)
    torch.rand(100)


def flip_the_default_dtype() -> None:
    """As `from_pretrained(dtype=…)` does for a moment, only all the time."""
    for dtype in (torch.bfloat16, torch.float64, torch.float32):
        torch.set_default_dtype(dtype)


def save_llama(folder: Path) -> None:
    """A tiny Llama with random weights, as a Hugging Face folder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def load_llama_and_sample(folder: Path) -> None:
    """What a page does with a model from the hub, in the process that trains."""
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.generate(torch.tensor([[1, 5, 9]]), attention_mask=torch.ones(1, 3, dtype=torch.int64), do_sample=True,
                   max_new_tokens=8, pad_token_id=0)  # fmt: skip
