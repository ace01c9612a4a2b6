"""Who boots next: the rules (`state`), where they are kept (`grubenv`), the command line."""
