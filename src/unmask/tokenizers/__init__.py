"""Tokenizers: images to a grid of codes or latents, and back."""
