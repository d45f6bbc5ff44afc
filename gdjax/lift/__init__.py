"""From a rule for one array to a transform over any tree."""
