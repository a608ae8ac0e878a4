"""The tiny models that ship, and their recipes."""

from pathlib import Path

MODELS_FOLDER = Path(__file__).parent / "models"
