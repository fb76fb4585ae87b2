"""What is trained after pretraining, and how: adapters, frozen weights, preferences, rewards, teachers."""
