"""The rule that turns scores into verdicts."""
