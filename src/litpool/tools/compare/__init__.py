"""Train with each loop in turn, and compare what they do step by step and what they cost."""
