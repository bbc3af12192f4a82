"""What pages are drawn with. Nothing here computes a result: it reads, draws, and calls the engine."""
