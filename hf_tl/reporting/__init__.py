"""Text, numbers and drawing that cards and reports share."""
