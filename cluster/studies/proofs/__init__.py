"""Statistical proofs on planted weaknesses: does the probe find them, does fine-tuning remove them?"""
