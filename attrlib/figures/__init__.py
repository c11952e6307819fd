"""Pictures from maps."""
