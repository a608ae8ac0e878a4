"""How an edit is drawn: one file a strategy, for a call of a diffusers pipeline and for the slot batcher."""
