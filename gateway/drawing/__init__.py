"""What pages and reports are made of: markup, words, meters, plots and their one style. Pure; it reads and decides nothing."""
