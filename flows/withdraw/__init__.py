"""`preflow withdraw`: rows taken out of all that is made from now on."""
