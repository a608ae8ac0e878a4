"""The tiny models that ship, one folder each in models/."""

from pathlib import Path

MODELS_FOLDER = Path(__file__).parent / "models"
