"""Whether `preflow plan` says what a training then takes."""
