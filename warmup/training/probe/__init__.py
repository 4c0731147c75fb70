"""`python -m warmup probe`: which peak rate and which warmup a recipe trains best with, from short runs."""
