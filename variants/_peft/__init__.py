"""Adapters in the format of PEFT: their settings, writing and reading."""
