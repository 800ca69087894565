"""Frozen pydantic records: what is stored in Redis and spoken over HTTP."""
