"""A folder of recordings: which files, the job that embeds them, where it runs, and an index of the results."""
