"""The Open Inference Protocol, version 2: its tensors to rows and back. Nothing here knows of HTTP."""
