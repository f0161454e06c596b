"""Our side: the stages' own functions, watched through the log that they are handed."""
