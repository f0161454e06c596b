"""Samplers beside our own (`rlhf.sampler.sample`): continuous batching of transformers, and a server."""
