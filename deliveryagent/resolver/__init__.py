"""The door to DNS."""
