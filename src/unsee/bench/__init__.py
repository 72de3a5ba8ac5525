"""The bench: a suite (TOML) → cells → images → verdicts → records → rows. The only layer that sees all.

    from unsee.bench.plan import Suite
    from unsee.bench.run import run
    rows = run(SuiteSpec.load("first"), "runs/first")

In the order of the data: ``plan`` (what is to be made), ``defenses`` (named, fitted, kept), ``models``
(opened, and which metrics they have), ``generate``, ``exact`` (the same bits for any batch), ``engine`` and ``engines``
(who draws), ``store``, ``run`` (all of it, resumable), ``shard`` and ``merge`` (a part of it, and back), ``rows``.
"""
