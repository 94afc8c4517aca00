"""The equations of the book: pure functions on tensors that import torch only."""
