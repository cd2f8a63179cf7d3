"""The kernel's own vocabulary: loads kernel source and gives it the language modules of its dialect."""
