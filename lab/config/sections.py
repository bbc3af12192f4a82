"""Every knob of the lab, once. A section is a group of knobs that belong to one part of a run."""

from typing import Literal

from lab.config.knobs import Section, knob

MODEL = "Model"
DATA = "Data"
OPTIMISATION = "Optimisation"
MEMORY = "Memory and speed"
OUTPUT = "Evaluation and checkpoints"
BUDGET = "Budget"

Precision = Literal["auto", "fp32", "bf16", "fp16"]


class GPTConfig(Section):
    """The shape of a from-scratch GPT: enough to build it, and nothing about how it is trained."""

    vocab_size: int = knob(
        50_257, "Vocabulary", "How many different tokens the model knows. The tokenizer decides it.",
        unit="tokens", level="derived", group=MODEL, ge=2, le=1_000_000,
    )
    context_length: int = knob(
        256, "Context", "How many tokens the model can look back over.",
        unit="tokens", group=MODEL, ge=2, le=131_072,
        effect="Attention's work grows with its square; memory grows at least in proportion.",
    )
    emb_dim: int = knob(
        256, "Width", "Length of the vector that carries each token through the model (d_model).",
        group=MODEL, ge=4, le=16_384,
        effect="Parameters and work of a block grow with its square.",
    )
    n_layers: int = knob(
        6, "Layers", "How many transformer blocks stand on top of each other.",
        group=MODEL, ge=1, le=256,
        effect="Time, parameters and memory grow in proportion.",
    )
    n_heads: int = knob(
        4, "Heads", "How many attention patterns each block computes side by side; the width is split between them.",
        group=MODEL, ge=1, le=256,
        effect="Nearly free: more heads means narrower ones.",
    )
    drop_rate: float = knob(
        0.0, "Dropout", "Share of the embeddings and of each branch's output that is set to zero at random while training.",
        group=MODEL, ge=0, lt=1,
        effect="Slows memorising when the text is read many times; in a single pass it costs learning.",
    )
    attention_drop_rate: float = knob(
        0.0, "Attention dropout", "Share of the attention weights that is set to zero at random while training.",
        group=MODEL, ge=0, lt=1,
        effect="Above 0 training takes the manual attention path, which is slower and keeps every weight in memory.",
    )
    qkv_bias: bool = knob(
        False, "Query, key and value bias", "Add a learned constant to each query, key and value, as GPT-2 does.",
        group=MODEL, effect="A few parameters more; most newer models leave it out.",
    )
    tie_embeddings: bool = knob(
        False, "Tie output to embedding", "Use the token embedding matrix as output layer too, as GPT-2 does.",
        group=MODEL, effect="Saves vocabulary × width parameters, with their gradients and optimizer state.",
    )


class DataConfig(Section):
    """What is read, and in which pieces."""

    corpus: str = knob(
        "shakespeare", "Corpus", "The text to learn from: a name from the corpora list, or a path to a text file of yours.",
        level="basic", group=DATA,
    )
    tokenizer: Literal["gpt2", "char"] = knob(
        "gpt2", "Tokenizer",
        "How text is cut into tokens. char: every character is one. gpt2: GPT-2's 50,257 word pieces.",
        level="basic", group=DATA,
        effect="A large vocabulary makes the output layer most of a small model's cost; compare runs across tokenizers in bits per byte only.",
    )
    stride: int | None = knob(
        None, "Stride", "Distance between the starts of two neighbouring windows of text.",
        unit="tokens", group=DATA, ge=1, none_label="the context length: windows do not overlap",
        effect="Smaller: more, overlapping windows, so each token is seen more often in an epoch.",
    )
    val_fraction: float = knob(
        0.1, "Validation share", "Share of the text, taken from its end, that is never trained on.",
        group=DATA, gt=0, lt=0.9,
        effect="Larger: a steadier validation loss, less text to learn from.",
    )


class OptimConfig(Section):
    """How a gradient becomes an update."""

    learning_rate: float = knob(
        3e-4, "Learning rate", "Size of a step at its largest, after the warm-up.",
        level="basic", group=OPTIMISATION, gt=0, le=10,
        effect="Too small: slow. Too large: the loss jumps or is no longer a number.",
    )
    schedule: Literal["cosine", "constant"] = knob(
        "cosine", "Schedule", "What the learning rate does after the warm-up: fall along a cosine, or stay.",
        group=OPTIMISATION, effect="Falling to a small rate usually ends at a lower loss.",
    )
    warmup_steps: int | None = knob(
        None, "Warm-up", "Steps over which the learning rate rises from near zero to its full size.",
        unit="steps", group=OPTIMISATION, ge=0, none_label="a twentieth of the run, at most 100 steps",
        effect="Keeps the first, badly scaled updates of AdamW small.",
    )
    schedule_steps: int | None = knob(
        None, "Schedule horizon", "The step at which the cosine has reached its end.",
        unit="steps", group=OPTIMISATION, ge=1, none_label="the run's last step",
        effect="Set it past the last step to stop early on a longer schedule.",
    )
    min_lr_ratio: float = knob(
        0.1, "Final learning rate", "What the cosine ends at, as a share of the full learning rate.",
        group=OPTIMISATION, ge=0, le=1,
    )
    optimizer: Literal["adamw", "adamw_8bit"] = knob(
        "adamw", "Optimizer", "adamw keeps two 32-bit numbers per parameter; adamw_8bit keeps two 8-bit ones (bitsandbytes).",
        group=OPTIMISATION, effect="8-bit saves 6 of 8 bytes of state per parameter in large matrices; slower on a CPU.",
    )
    weight_decay: float = knob(
        0.1, "Weight decay", "How strongly matrices are pulled towards zero at each step; biases and norms are left alone.",
        group=OPTIMISATION, ge=0, le=10, effect="A little keeps weights from growing; too much forgets.",
    )
    beta1: float = knob(
        0.9, "Beta 1", "Memory of AdamW's average gradient.", group=OPTIMISATION, ge=0, lt=1,
    )
    beta2: float = knob(
        0.99, "Beta 2", "Memory of AdamW's average squared gradient.", group=OPTIMISATION, ge=0, lt=1,
        effect="Closer to 1 is smoother; small batches like 0.99.",
    )
    grad_clip: float = knob(
        1.0, "Gradient clipping", "Longest gradient that is used as it is; a longer one is scaled down to this length. 0 turns it off.",
        group=OPTIMISATION, ge=0, effect="Keeps one odd batch from throwing the model off.",
    )


class TrainConfig(Section):
    """How much, how long, and what is kept."""

    batch_size: int = knob(
        4, "Batch size", "Sequences in one forward and backward pass (a micro-batch).",
        unit="sequences", level="basic", group=BUDGET, ge=1, le=65_536,
        effect="Memory for activations grows in proportion; larger batches use the hardware better and give a steadier gradient.",
    )
    grad_accum_steps: int = knob(
        1, "Gradient accumulation", "Micro-batches whose gradients are added up before one update.",
        unit="micro-batches", group=MEMORY, ge=1, le=65_536,
        effect="Same memory, a larger effective batch, proportionally slower steps.",
    )
    max_steps: int | None = knob(
        1_000, "Steps", "Updates of the weights until the run is finished.",
        unit="steps", level="basic", group=BUDGET, ge=1, none_label="given by epochs or minutes",
    )
    max_epochs: float | None = knob(
        None, "Epochs", "Passes over the training text until the run is finished.",
        unit="epochs", level="basic", group=BUDGET, gt=0, none_label="given by steps or minutes",
    )
    max_minutes: float | None = knob(
        None, "Minutes", "Time until the run is finished; becomes a number of steps once 20 steps have been measured.",
        unit="minutes", level="basic", group=BUDGET, gt=0, none_label="given by steps or epochs",
    )
    seed: int = knob(
        1337, "Seed", "Start of every random choice: first weights, order of the text, dropout, samples.",
        level="basic", group=BUDGET, ge=0, le=2**31 - 1,
        effect="Same seed, same machine, same run; another seed shows how much of a result is luck.",
    )
    eval_every: int = knob(
        100, "Evaluate every", "Steps between two evaluations: validation loss and samples.",
        unit="steps", group=OUTPUT, ge=1, effect="Each one pauses training for a moment.",
    )
    eval_tokens: int | None = knob(
        20_000, "Validation tokens", "How much of the validation text each evaluation reads: the same evenly spaced windows every time.",
        unit="tokens", group=OUTPUT, ge=1, none_label="the whole validation text",
        effect="More: a steadier figure, a longer pause.",
    )
    sample_prompts: tuple[str, ...] = knob(
        (), "Sample prompts", "Texts that the model continues at each evaluation, always from the same seed. None: the opening words of the validation text.",
        group=OUTPUT,
    )
    sample_tokens: int = knob(
        160, "Sample length", "Tokens written for each sample prompt. 0 turns samples off.",
        unit="tokens", group=OUTPUT, ge=0, le=4_096,
    )
    checkpoint_every: int = knob(
        0, "Keep a checkpoint every", "Steps between two kept checkpoints. 0: only the final one, which is always written.",
        unit="steps", group=OUTPUT, ge=0, effect="Each takes 12 bytes of disk per parameter.",
    )
    keep_last: int = knob(
        5, "Checkpoints kept", "How many of the periodic checkpoints stay; older ones are deleted. The final one and those you save always stay.",
        group=OUTPUT, ge=1, le=10_000,
    )


class ComputeConfig(Section):
    """How the same numbers are computed: memory and speed, not learning."""

    device: Literal["auto", "cpu", "cuda", "mps"] = knob(
        "auto", "Device", "Where the model trains. auto: a CUDA GPU if there is one, then Apple's, then the CPU.",
        group=MEMORY,
    )
    precision: Precision = knob(
        "auto", "Precision",
        "Number format of the matrix products; the weights stay in fp32. auto measures fp32 against bf16 on this machine for about a second.",
        group=MEMORY, effect="16 bits halve the memory of activations and are faster where the hardware has them; fp16 needs loss scaling, bf16 does not.",
    )
    attention_impl: Literal["sdpa", "manual"] = knob(
        "sdpa", "Attention", "sdpa: PyTorch's fused kernel. manual: every step written out, as in the lesson.",
        group=MEMORY, effect="Same result; manual keeps a context × context matrix per head in memory.",
    )
    gradient_checkpointing: bool = knob(
        False, "Gradient checkpointing", "Forget the activations inside each block and compute them again in the backward pass.",
        group=MEMORY, effect="Much less memory for activations, about a third more time.",
    )
    tf32: bool = knob(
        True, "TF32", "On NVIDIA GPUs from Ampere on, let fp32 matrix products use 10-bit mantissas.",
        group=MEMORY, effect="Several times faster fp32; no effect on a CPU.",
    )
    threads: int | None = knob(
        None, "CPU threads", "Threads that PyTorch computes with.",
        unit="threads", group=MEMORY, ge=1, le=1_024, none_label="measured: what is fastest here, leaving room for the page",
    )
