"""How the models that draw are trained: autoencoder, its decoder, and the editor."""
