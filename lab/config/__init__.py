"""Every knob of the lab, once: see `sections.py`. Form, flags, stored JSON and docs are made from there."""

from lab.config.build import KINDS, RunConfig, build, build_finetune, build_pretrain, changed, flat, layered
from lab.config.finetune import FineTuneConfig, FineTuneDataConfig, FineTuneModelConfig
from lab.config.knobs import Leaf, leaves
from lab.config.presets import PRESET_HINTS, PRESETS, default_preset
from lab.config.pretrain import PretrainConfig
from lab.config.sections import ComputeConfig, DataConfig, GPTConfig, OptimConfig, TrainConfig
from lab.config.stored import differences, from_json, to_json

__all__ = [
    "KINDS",
    "PRESETS",
    "PRESET_HINTS",
    "ComputeConfig",
    "DataConfig",
    "FineTuneConfig",
    "FineTuneDataConfig",
    "FineTuneModelConfig",
    "GPTConfig",
    "Leaf",
    "OptimConfig",
    "PretrainConfig",
    "RunConfig",
    "TrainConfig",
    "build",
    "build_finetune",
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
