"""Every knob of the lab, once: see `sections.py`. Form, flags, stored JSON and docs are made from there."""

from lab.config.build import build_pretrain, changed, flat, layered
from lab.config.knobs import Leaf, leaves
from lab.config.presets import PRESET_HINTS, PRESETS, default_preset
from lab.config.pretrain import PretrainConfig
from lab.config.sections import ComputeConfig, DataConfig, GPTConfig, OptimConfig, TrainConfig
from lab.config.stored import differences, from_json, to_json

__all__ = [
    "PRESETS",
    "PRESET_HINTS",
    "ComputeConfig",
    "DataConfig",
    "GPTConfig",
    "Leaf",
    "OptimConfig",
    "PretrainConfig",
    "TrainConfig",
    "build_pretrain",
    "changed",
    "default_preset",
    "differences",
    "flat",
    "from_json",
    "layered",
    "leaves",
    "to_json",
]
