"""What only some arms need: their own batches and losses."""
