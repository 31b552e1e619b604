"""Models on this machine and on the Hugging Face Hub: names, folders, downloads."""
