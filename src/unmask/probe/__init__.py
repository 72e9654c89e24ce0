"""What MAGE's representation is worth: linear probe, fine-tuning, nearest neighbours."""
