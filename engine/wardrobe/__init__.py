"""The shipped data set: photographs of garments, tinted and composed onto backgrounds, with exact ground truth."""
