"""What the verifier's scores are made of: a file a signal."""
