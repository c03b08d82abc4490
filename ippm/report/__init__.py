"""The result model and its forms."""
