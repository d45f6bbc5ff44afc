"""A pytest plugin for Orbax's own tests: they want JAX's service of many processes, in which this is the one process,
eight devices, and a new folder for their files."""

import os
import socket
import tempfile

import jax

with socket.socket() as s:
    s.bind(("localhost", 0))
    port = s.getsockname()[1]
os.environ["TEST_TMPDIR"] = tempfile.mkdtemp()
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
jax.distributed.initialize(f"localhost:{port}", num_processes=1, process_id=0)
