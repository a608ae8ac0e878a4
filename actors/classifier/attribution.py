"""Ask a classifier about a pair with patches exchanged: where on the picture the edit moved its answer."""

import numpy as np
from PIL import Image

from actors.classifier.classifier import Classifier
from actors.images.codec import decode_rgb, encode_png
from engine.probe.attribution import Attribution, attribute, patched_pictures
from engine.sample import Sample

# Classifiers look at some 224 to 384 pixels; larger pictures would cost time and memory and change nothing.
MAX_EDGE = 512


def attribute_pair(edit: Sample, control: Sample, classifier: Classifier) -> Attribution:
    """Return where the edit moved p(label) against its control; raises UnreadableImageError.

    A control of another size is scaled to the edit's. Pictures are handed over without loss (PNG).
    """
    shown = decode_rgb(edit.image)
    shown.thumbnail((MAX_EDGE, MAX_EDGE), Image.Resampling.LANCZOS)
    other = decode_rgb(control.image)
    if other.size != shown.size:
        other = other.resize(shown.size, Image.Resampling.LANCZOS)
    pictures = patched_pictures(np.asarray(shown), np.asarray(other))
    answers = classifier.predict([encode_png(picture) for picture in pictures])
    return attribute(answers[:, edit.label].tolist(), control.key)
