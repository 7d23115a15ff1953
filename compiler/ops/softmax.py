"""See the family's name."""
