"""Many pipelines in a row in one workspace: what grows, and what is left behind."""
