"""What `vaex bench` measures: vaex beside its peers, and what its maps say against known truth."""
