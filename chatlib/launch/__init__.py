"""Starting, watching and ending real DeepSpeed launches. Imports no torch."""
