"""What a user's module does, and how it is left as it was."""
