"""Faults: processes killed at random moments, files torn and flipped, disks that run full.

    python -m benchmarks.faults [--rounds 200] [--seed 0]

jobs     what the processes do that are killed
checks   what has to hold afterwards
kills    rounds with kill -9
damage   rounds with damaged files
disks    rounds on a disk that runs full
"""
