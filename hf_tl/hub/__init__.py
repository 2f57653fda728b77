"""Push to and pull from the Hub."""
