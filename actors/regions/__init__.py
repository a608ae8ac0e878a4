"""Where in a picture is what a word names: models that find regions by words."""
