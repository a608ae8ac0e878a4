"""A Ray session, the placement of stages in it, and what its workers need."""
