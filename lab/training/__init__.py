"""Training: one loop for every kind of run, and the parts it is made of."""
