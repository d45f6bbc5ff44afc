"""Methods in plain JAX, as their papers state them: the numbers of gdjax, without its speed, its checks and its guards
for zeros, NaN and 16-bit arrays."""
