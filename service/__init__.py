"""The front door: HTTP in, records out. Never imports Ray or `worker`."""
