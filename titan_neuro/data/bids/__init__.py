"""BIDS: names, recordings, derivatives, output folders, git-annex."""
