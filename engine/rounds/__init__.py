"""How the edits of each round are allocated by what earlier rounds found."""
