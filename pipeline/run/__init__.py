"""What a run is: its config, stages, artifacts and processes, and what is refused before it starts."""
