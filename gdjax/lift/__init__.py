"""Makes a rule of one array a transform over any tree."""
