"""Pixels in and out: decoding, framing, preprocessing, encoding."""
