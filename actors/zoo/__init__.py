"""The tiny zoo: how each shipped model was trained, from scratch, by `python -m actors.zoo.make`."""
