"""Ready-made runs. A preset fills the fields; any field overrides it."""

from lab.config.pretrain import PretrainConfig
from lab.config.sections import DataConfig, GPTConfig, OptimConfig, TrainConfig


def _book(learning_rate: float = 3e-4, max_steps: int = 1_000, **shape: object) -> PretrainConfig:
    """nano, small and medium share all but their shape."""
    return PretrainConfig(
        model=GPTConfig(drop_rate=0.1, **shape),  # type: ignore[arg-type]
        optim=OptimConfig(learning_rate=learning_rate),
        train=TrainConfig(batch_size=4, max_steps=max_steps, sample_tokens=60),
    )


PRESETS: dict[str, PretrainConfig] = {
    # The laptop recipe's shape (characters, 4 × 4 × 128, context 64). The learning rate is what a sweep
    # found best at 2,000 steps: benchmarks/README.md.
    "pocket": PretrainConfig(
        model=GPTConfig(vocab_size=65, context_length=64, emb_dim=128, n_layers=4, n_heads=4),
        data=DataConfig(tokenizer="char"),
        optim=OptimConfig(learning_rate=4e-3),
        train=TrainConfig(batch_size=12, max_steps=2_000),
    ),
    "nano": _book(emb_dim=256, n_layers=6, n_heads=4, context_length=256),
    "small": _book(emb_dim=512, n_layers=8, n_heads=8, context_length=512),
    # GPT-2 small itself: with a bias on query, key and value and a tied output layer.
    "medium": _book(emb_dim=768, n_layers=12, n_heads=12, context_length=1024, qkv_bias=True, tie_embeddings=True),
}

PRESET_HINTS = {
    "pocket": "0.8 M parameters on characters: first readable text within minutes on a laptop CPU.",
    "nano": "30.5 M parameters on GPT-2's tokens: an evening on a CPU, minutes on a GPU.",
    "small": "76.9 M parameters on GPT-2's tokens: for a GPU.",
    "medium": "124.4 M parameters: GPT-2 small itself; for a GPU.",
}


def default_preset(has_gpu: bool) -> str:
    """pocket where only a CPU is, nano on a GPU."""
    return "nano" if has_gpu else "pocket"
