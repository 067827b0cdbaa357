"""The command `jsarag`: parses and prints; what is done is the library's."""
