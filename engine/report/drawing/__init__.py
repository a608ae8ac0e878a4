"""Charts and heat maps as HTML."""
