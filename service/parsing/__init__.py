"""Uploaded files of each form, read into canonical Parquet; used by the parser's process alone."""
