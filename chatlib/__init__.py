"""chatlib: the training pipeline of a chat assistant, one small file per chapter."""

__version__ = "0.1.0"
