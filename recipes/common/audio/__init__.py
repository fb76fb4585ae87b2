"""Clips of sound: readers, decoding, preparation, segments, pictures of them."""
