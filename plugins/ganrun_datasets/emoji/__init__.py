"""Emoji: small colour pictures in ten categories, by two vendors, from npm's registry."""
