"""The allocation of each round's edits from the evidence of earlier rounds."""
