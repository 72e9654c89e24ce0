"""The parts of networks: blocks, embeds, trunks and heads."""
