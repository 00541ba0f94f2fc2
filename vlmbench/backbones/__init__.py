"""Model families: the contract with a run, the parts that families share, and one file a family."""
