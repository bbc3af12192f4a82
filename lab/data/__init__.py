"""Text in, batches out: corpora, tokenizers, token files, windows. Nothing is imported here, so that it stays light."""
