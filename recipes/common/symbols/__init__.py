"""Decoders over a closed vocabulary: words of music, atoms of molecules."""
