"""Models in folders and repositories, as transformers and timm save them."""
