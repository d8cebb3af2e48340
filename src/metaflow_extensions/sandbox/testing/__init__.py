"""For tests of sandboxes: the contract that every backend passes, and a scripted fake."""
