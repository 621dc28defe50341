"""Sources as batches of text cells; one module for each format."""
