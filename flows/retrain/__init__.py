"""`preflow retrain`: new data, a run where one is due, the gate, and who decides."""
