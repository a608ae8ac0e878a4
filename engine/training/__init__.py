"""What a classifier is trained on, and whether the result ships."""
