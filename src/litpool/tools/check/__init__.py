"""Check the data, the tokenizer and the encoder before a run, and print a table with advice."""
