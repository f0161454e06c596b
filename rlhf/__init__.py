"""The pure library: data records, chat template, losses, advantages, sampler, trainer, models."""
