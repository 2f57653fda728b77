"""Images that are read once, in the order of a stream."""
