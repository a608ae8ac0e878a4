"""Charts, heat maps and numbers in words, as HTML and text."""
