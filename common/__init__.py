"""What the service and the workers must agree on: records, the store, the network and its features. No HTTP, no Ray."""
