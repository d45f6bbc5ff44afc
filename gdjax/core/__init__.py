"""The contract of all transforms, transforms as values, and errors."""
