"""Text, numbers and drawing shared by cards and reports."""
