"""How many weights an adapter has, before anything is loaded: from the headers of the base's files."""

import re

from lab.config import FineTuneConfig, PretrainConfig
from lab.errors import LabError
from lab.finetuning.base import find_base

_BLOCK = re.compile(r"(?:^|\.)\d+\.")
_ATTENTION = re.compile(r"attn|attention|W_query|W_key|W_value|out_proj")


def adapted_layers(config: FineTuneConfig) -> dict[str, tuple[int, int]] | None:
    """The linear layers that get an adapter, by name, with out and in; None where the base is not at hand or every
    weight trains."""
    if not config.has_adapter:
        return None
    try:
        shapes = _matrices(config)
    except LabError:
        return None
    chosen = config.model.target_modules
    return {
        name: size
        for name, size in shapes.items()
        if chosen == "all_linear" or (chosen == "attention") == (_ATTENTION.search(name) is not None)
    }


def trainable_weights(config: FineTuneConfig) -> int | None:
    """Weights of the adapter; None as `adapted_layers`.

    Each matrix of out × in gets rank · (out + in) of them, with DoRA another `out`.
    """
    layers = adapted_layers(config)
    if layers is None:
        return None
    rank, dora = config.model.rank, config.model.dora
    return sum(rank * (rows + columns) + (rows if dora else 0) for rows, columns in layers.values())


def _matrices(config: FineTuneConfig) -> dict[str, tuple[int, int]]:
    """Shapes of the linear layers inside the blocks, by name."""
    base = find_base(config.model.model)
    if base.run is not None:
        shape = base.run.config_as(PretrainConfig).model
        wide = shape.emb_dim
        block = dict.fromkeys(("W_query", "W_key", "W_value", "out_proj"), (wide, wide))
        block |= {"ff.0": (4 * wide, wide), "ff.2": (wide, 4 * wide)}
        return {f"{layer}.{name}": size for layer in range(shape.n_layers) for name, size in block.items()}
    from safetensors import safe_open

    found = {}
    for path in sorted(base.folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 # a handle, not a dict
                size = file.get_slice(name).get_shape()
                if len(size) == 2 and _BLOCK.search(name) and "embed" not in name:
                    found[name] = (size[0], size[1])
    return found
