"""The tiny models that ship: a folder for each in models/, how they were trained in recipes/, how good they are in exam/."""

from pathlib import Path

MODELS_FOLDER = Path(__file__).parent / "models"
