"""Look at data, tokenizer and encoder before a run: a table of what is well, and of what is not."""
