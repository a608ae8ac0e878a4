"""The embedded default: photographs of garments, tinted and composed onto backgrounds, with exact ground truth."""
