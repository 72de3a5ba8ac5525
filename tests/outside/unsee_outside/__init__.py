"""One method of each kind, as a package beside unsee has them. Importing it imports nothing heavy."""
