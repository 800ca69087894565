"""Models in the file formats of others."""
