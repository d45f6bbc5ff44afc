"""One file per optimizer family. Import from `gdjax`: a name here would shadow its module."""
