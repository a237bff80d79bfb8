"""PyTorch's own judges of its layers and its `batch_norm`, run against ours in their place."""
