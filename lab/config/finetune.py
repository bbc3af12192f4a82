"""A fine-tuning run as one value. What it shares with pretraining is inherited; only what means something else here
is said anew."""

from typing import Any, Literal

from lab.config.knobs import Section, knob, knob_of
from lab.config.pretrain import AnyRunConfig, rule_one_budget
from lab.config.sections import (
    DATA,
    MEMORY,
    MODEL,
    OUTPUT,
    ComputeConfig,
    DataConfig,
    OptimConfig,
    Precision,
    TrainConfig,
)

ADAPTER = "Adapter"

Method = Literal["lora", "qlora", "lora_8bit", "full"]
Targets = Literal["all_linear", "attention", "mlp"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


class FineTuneModelConfig(Section):
    """What is changed, and how much of it may move."""

    model: str = knob(
        "smollm2-135m", "Model", "The model to start from: a name from the models list, a run of yours (RUN or RUN@STEP), a folder, or a hub id that was pulled.",
        level="basic", group=MODEL,
        effect="Decides almost everything: what it knows, the memory, the time.",
    )
    method: Method = knob(
        "lora", "Method",
        "lora: the weights stay as they are, small matrices beside them learn. qlora: the same beside weights stored in 4 bits (NF4). lora_8bit: beside 8 bits. full: every weight learns.",
        level="basic", group=MODEL,
        effect="4 bits take a quarter of the weights' memory and cost a little quality and speed; full takes about 16 bytes per parameter.",
    )
    mode: Literal["compatible", "fast"] = knob(
        "compatible", "Mode", "compatible: transformers and peft, on any machine. fast: Unsloth, in an environment of its own; it needs an NVIDIA GPU.",
        group=MEMORY, effect="fast: the same training with fused kernels.",
    )
    rank: int = knob(
        16, "Rank", "Width of the small matrices: how many independent directions each layer's change may have. Not used by full.",
        level="basic", group=ADAPTER, ge=1, le=1_024,
        effect="More: more that can be learnt and forgotten, memory and checkpoints in proportion.",
    )
    alpha: float = knob(
        32.0, "Alpha", "The change is multiplied by alpha / rank. Not used by full.",
        group=ADAPTER, gt=0, le=10_000, effect="Works like a learning rate of the adapter; twice the rank is usual.",
    )
    lora_dropout: float = knob(
        0.0, "Adapter dropout", "Share of each adapter's input that is set to zero at random while training. Not used by full.",
        group=ADAPTER, ge=0, lt=1, effect="Slows memorising on small data sets read several times.",
    )
    rslora: bool = knob(
        False, "Rank-stabilised", "Multiply by alpha / √rank instead, so that large ranks learn as fast as small ones. Not used by full.",
        group=ADAPTER, effect="Matters from rank 32 or so on; lower alpha with it.",
    )
    dora: bool = knob(
        False, "DoRA", "Learn the length of each weight vector apart from its direction. Not used by full.",
        group=ADAPTER, effect="Closer to full fine-tuning at small ranks; slower by a third or more.",
    )
    target_modules: Targets = knob(
        "all_linear", "Layers", "Which linear layers inside the blocks get an adapter: all, those of attention only, or those of the feed-forward (MLP) only. Not used by full.",
        group=ADAPTER, effect="All learns most; the other two are a lesson in what each part does.",
    )


class FineTuneDataConfig(Section):
    """What is learnt from, and how rows become tokens."""

    dataset: str = knob(
        "pirate", "Data set", "A bundled data set, a file (jsonl, json, csv, parquet), or a hub id that was pulled.",
        level="basic", group=DATA,
    )
    format: Literal["auto", "instruction", "prompt_completion", "messages"] = knob(
        "auto", "Format", "instruction: instruction, input, output. prompt_completion: prompt, completion. messages: lists of role and content. auto: by the names of the columns.",
        group=DATA,
    )
    columns: tuple[str, ...] = knob(
        (), "Columns", "Where the data set calls its columns otherwise: pairs such as prompt=question completion=answer.",
        group=DATA,
    )
    chat_template: Literal["auto", "model", "lab"] = knob(
        "auto", "Chat template", "How a conversation is written as one text. model: the model's own template. lab: a plain one, for models that have none. auto: the model's own where there is one.",
        group=DATA, effect="A model learns its answers in the frame it is trained in; chat uses the same one.",
    )
    max_length: int = knob(
        256, "Length", "Most tokens of a row; longer ones are cut at the end, and refused if that cuts the answer away.",
        unit="tokens", level="basic", group=DATA, ge=8, le=131_072,
        effect="Memory and time of the longest rows; short rows cost nothing of it.",
    )
    packing: bool = knob(
        False, "Packing", "Put several short rows into one sequence; they do not see each other.",
        group=DATA, effect="No time is spent on padding: faster where rows differ much in length. A step then sees more rows.",
    )
    completion_only: bool = knob(
        True, "Learn answers only", "Count the loss on what the model has to say, not on what it is told.",
        group=DATA, effect="Off: it also learns to write the questions.",
    )
    val_fraction: float = knob_of(
        DataConfig, "val_fraction", 0.1,
        help="Share of the rows that is never trained on; rows that say the same are kept on one side.",
        effect="Larger: a steadier validation loss, less to learn from.",
    )


class FineTuneOptimConfig(OptimConfig):
    """As in pretraining, with other defaults: small matrices bear larger steps, and there is little to decay."""

    learning_rate: float = knob_of(
        OptimConfig, "learning_rate", 2e-4,
        effect="Adapters like 1e-4 to 1e-3, full fine-tuning a tenth of that. Too large: the model forgets what it knew.",
    )
    optimizer: Optimizer = knob_of(  # type: ignore[assignment]
        OptimConfig, "optimizer", "adamw",
        help="adamw keeps two 32-bit numbers per weight that trains; adamw_8bit keeps two 8-bit ones (bitsandbytes); paged_adamw_8bit may move them to the computer's memory when the GPU is full.",
        effect="With adapters the state is small and adamw is right; 8 bits matter for full fine-tuning. Paged is the same as adamw_8bit on a CPU.",
    )
    weight_decay: float = knob_of(
        OptimConfig, "weight_decay", 0.0,
        help="How strongly the matrices that train are pulled towards zero at each step.",
        effect="With adapters: pulls back towards the base model.",
    )
    beta2: float = knob_of(OptimConfig, "beta2", 0.999, effect="Closer to 1 is smoother.")


class FineTuneTrainConfig(TrainConfig):
    """As in pretraining, for rows instead of windows of a text."""

    batch_size: int = knob_of(
        TrainConfig, "batch_size", 4, unit="rows",
        help="Rows (or packed sequences) in one forward and backward pass (a micro-batch).",
    )
    max_steps: int | None = knob_of(TrainConfig, "max_steps", 120)
    max_epochs: float | None = knob_of(
        TrainConfig, "max_epochs", None, help="Passes over the training rows until the run is finished.",
        effect="From the third or so on, small data sets are learnt by heart: watch the validation loss.",
    )
    seed: int = knob_of(
        TrainConfig, "seed", 1337,
        help="Start of every random choice: the adapters' first weights, order of the rows, dropout, samples.",
    )
    eval_every: int = knob_of(TrainConfig, "eval_every", 30)
    eval_tokens: int | None = knob_of(
        TrainConfig, "eval_tokens", 10_000, none_label="all validation rows",
        help="How much of the validation rows each evaluation reads: the same evenly spaced rows every time.",
    )
    forget_tokens: int = knob(
        512, "Forgetting text", "How much of an old story each evaluation reads to see what was forgotten; forty simple questions are asked beside it. 0 turns both off.",
        unit="tokens", group=OUTPUT, ge=0, le=8_192,
        effect="More: a steadier figure, a longer pause. Runs compare only at the same length.",
    )
    sample_prompts: tuple[str, ...] = knob_of(
        TrainConfig, "sample_prompts", (),
        help="Questions that the model answers at each evaluation, always the likeliest way. None: the first three of the validation rows.",
    )
    sample_tokens: int = knob_of(
        TrainConfig, "sample_tokens", 48, help="Most tokens of each sample answer. 0 turns samples off.",
    )
    checkpoint_every: int = knob_of(
        TrainConfig, "checkpoint_every", 0,
        effect="Each holds what trains: a few MiB of adapters, or 12 bytes per parameter of a full fine-tuning.",
    )


class FineTuneComputeConfig(ComputeConfig):
    """As in pretraining; only the frozen weights are new."""

    precision: Precision = knob_of(
        ComputeConfig, "precision", "auto",
        help="Number format of the frozen weights and of the matrix products; what trains stays in fp32. auto measures fp32 against bf16 on this machine for a moment.",
        effect="16 bits halve the memory of weights and activations and are faster where the hardware has them.",
    )


class FineTuneConfig(AnyRunConfig):
    """Everything that decides a fine-tuning run: the same config, machine, model and rows give the same adapter."""

    kind: Literal["finetune"] = "finetune"
    model: FineTuneModelConfig = FineTuneModelConfig()
    data: FineTuneDataConfig = FineTuneDataConfig()
    optim: FineTuneOptimConfig = FineTuneOptimConfig()
    train: FineTuneTrainConfig = FineTuneTrainConfig()
    compute: FineTuneComputeConfig = FineTuneComputeConfig()

    @property
    def has_adapter(self) -> bool:
        """Whether small matrices train beside frozen weights."""
        return self.model.method != "full"


def rule_names_are_given(values: dict[str, Any]) -> str | None:
    for name in ("model", "dataset"):
        if not str(values[name]).strip():
            return f"{name} is empty: name one; `lab models list` shows the models there are."
    return None


def rule_columns_are_pairs(values: dict[str, Any]) -> str | None:
    wrong = [pair for pair in values["columns"] if "=" not in pair or not all(part.strip() for part in pair.split("=", 1))]
    if wrong:
        return f"columns has {wrong[0]!r}, but must be pairs such as prompt=question."
    return None


FINETUNE_RULES = (rule_one_budget, rule_names_are_given, rule_columns_are_pairs)
"""Plain functions over the flat values; each returns a sentence, or None when all is well."""
