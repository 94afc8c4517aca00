"""A trained assistant at work: the dialogue system."""
