"""Metrics: pure functions over verdicts or images; a metric never generates and never judges."""
