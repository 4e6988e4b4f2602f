"""From websites or folders to pages, chunks and an index; and the sample site with its table of facts."""
