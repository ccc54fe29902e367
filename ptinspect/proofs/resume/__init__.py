"""`check resume`: run the training, find the causes of a difference, and report them."""
