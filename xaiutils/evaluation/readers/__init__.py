"""Studies with readers: who reads which image in which arm, what they answered, and what it says."""
