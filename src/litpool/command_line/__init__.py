"""What the commands share: their options, help, spelling, one-line errors, run folders."""
