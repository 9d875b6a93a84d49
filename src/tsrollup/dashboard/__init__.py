"""Rollups in the browser: how each is doing, what it says, and what to do about it.

server.py serves, guard.py says to whom, database.py holds the connections; queries.py and,
for charts, series.py have all SQL.
A page is a module: overview, rollup, create. chart.py and markup.py draw.
"""
