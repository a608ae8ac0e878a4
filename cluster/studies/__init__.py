"""Experiments on the product itself: faults and proofs."""
