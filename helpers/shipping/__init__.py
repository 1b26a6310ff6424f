"""After training: a model card, the Hub, a demo page, labels for a file, drift, the capstone."""
