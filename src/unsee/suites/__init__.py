"""Suites: what a TOML file may say of models, defenses, attacks, prompts and claims; some ship with the package."""
