"""What a generator's training minimises."""
