"""Analysis of results: agreement of protocols, and values reported in papers."""
