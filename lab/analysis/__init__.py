"""Looking inside models: capturing what happens there, and pure functions on what was captured."""
