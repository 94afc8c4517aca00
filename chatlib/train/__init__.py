"""What every rank of a launch runs; only `engine` imports deepspeed."""
