"""Models: our own GPT, its weights on disk, and writing text with it."""
