"""What the records let one say, in sentences and small tables."""
