"""Ground: what a run is told. Stages, DeepSpeed's dictionary, the device. Imports no torch."""
