"""Analysis of results: leaderboards, paired differences, example items, agreement of protocols, and values reported in papers."""
