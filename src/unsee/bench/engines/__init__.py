"""The engines: one file each, listed in ``unsee.bench.engine.ENGINES``."""
