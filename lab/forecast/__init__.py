"""What a run will need, known before it starts.

Read `memory.py` first (what is asked and answered), then `replay.py` (the real training step on tensors without
memory), `storages.py` (who counts), `timeline.py` (the count as a curve, and from three layers to any number),
`lookup.py` (few replays answer for most configs), `rules.py` (what differs between a CPU and a GPU) and `fit.py` (what
would fit instead). `finetune_config.py`, `finetune.py` and `unfilled.py` are the same for a fine-tuning.
"""
