"""What is measured of generated pictures, against held-out ones, with intervals."""
