"""What is done for a compiler's sake, and for nothing else."""
