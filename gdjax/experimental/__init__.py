"""What may still change: the namespace `optax.experimental`."""

from gdjax.experimental import aggregating

__all__ = ["aggregating"]
