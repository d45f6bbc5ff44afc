"""Line searches: how far to go along a direction, one file per search."""
