"""The verifier stage: scores for each image, a verdict for each edit."""
