"""A pytest plugin for Orbax's own tests, which want JAX's service of many processes, and eight devices: it is the one
process there."""

import os
import socket

import jax

with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
jax.distributed.initialize(f"localhost:{port}", num_processes=1, process_id=0)
