"""What two image families share; it knows no family by name."""
