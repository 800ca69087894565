"""Redis: every record, the queue and its leases. Keys are documented in `keys.py`, atomic steps in `scripts/`."""
