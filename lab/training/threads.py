"""How many CPU threads the calling thread computes with, and nobody else's business."""

import torch


def use_threads(n: int) -> None:
    """Let the calling thread compute with `n` threads from here on, whatever others set for themselves.

    `torch.set_num_threads` alone does not hold: it also sets the number for threads that have not computed yet, and
    a thread that has not *computed* yet takes over that number at its first large operation, even if it has set
    its own before. So a page that asked for one thread in the wrong moment changed how a training's products
    were cut into pieces, and with it the last bits of its losses from the third step on. Asking for the number
    counts as computing: after that, the thread's own setting stays.
    """
    while torch.get_num_threads() != n:
        torch.set_num_threads(n)
