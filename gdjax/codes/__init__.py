"""Numbers in fewer bits: what a state keeps in place of float32."""
