"""Prompts as token ids: fill-in-the-middle and conversations."""
