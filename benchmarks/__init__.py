"""Measurements. Each script stores its figures under `results/`; the README's table is made of them."""
