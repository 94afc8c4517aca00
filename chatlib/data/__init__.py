"""Text in, tensors out: readers, cleaning, templates, splits and the shop corpus (chapter 2)."""
