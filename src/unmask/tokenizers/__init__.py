"""Tokenizers: images to a grid of codes and back."""
