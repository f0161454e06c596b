"""`preflow compare`: a grid of algorithms, settings and seeds over one data set, as one table."""
