"""A tiny tokenizer that chats: every byte is a token, and a template with tokens of its own."""

from pathlib import Path

from lab.sessions.hf_tokenizer import HFTokenizer
from tests.tiny_models import byte_tokenizer

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>\n' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The same, with TRL's marks around what the assistant says."""


def saved_tokenizer(folder: Path, template: str | None = CHAT) -> Path:
    inner = byte_tokenizer()
    inner.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    inner.chat_template = template
    inner.save_pretrained(folder)
    return folder


def chat_tokenizer(folder: Path, template: str | None = CHAT) -> HFTokenizer:
    return HFTokenizer(saved_tokenizer(folder, template))
