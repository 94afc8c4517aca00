"""What a run leaves: its files, identity, record, checkpoints. Imports no torch."""
