"""What the papers and this project's pages claim, each measured as the paired difference of two arms on held-out scenes."""
