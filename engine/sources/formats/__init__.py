"""What decoders leave to their caller: damage they pass over, values wider than 8 bits, and colour profiles."""
