"""Who signed a release: keys, lists of signers, signatures, how many it takes."""
