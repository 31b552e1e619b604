"""Choosing integers and scales better than by plain rounding; the bit layout is Jlama's either way."""
