"""Reports: rows and records → a sentence, a table, figures, and one HTML file. Nothing is measured here.

from unsee.bench.store import Store
from unsee.report import html
with Store("runs/first") as store:
    html.write(store)                     # runs/first/report.html
"""
