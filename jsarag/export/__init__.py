"""Parts of a trained run for the tools people already use."""
