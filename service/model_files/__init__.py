"""Models as files: what leaves this service, and what comes in and is believed only once it has been checked."""
