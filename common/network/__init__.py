"""The neural network: forward beside backward, over one flat vector of parameters."""
