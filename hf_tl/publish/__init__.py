"""What leaves the machine: the record's card and pictures, and the push to the Hub."""
