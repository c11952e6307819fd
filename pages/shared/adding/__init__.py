"""The steps of the dialog "Add a model"."""
