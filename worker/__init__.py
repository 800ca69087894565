"""The engine room: Ray, the parameter server and its workers. Never imports FastAPI or `service`."""
