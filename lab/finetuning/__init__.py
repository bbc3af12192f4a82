"""Fine-tuning: a model that exists learns from examples of what it should say."""
