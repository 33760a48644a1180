"""Grafana dashboards as code: `python -m dashboards` writes json/ anew. See GRAFANA.md.

    board.py    what all have in common: variables, annotations, links, and the two forms of panel
    promql.py   the selectors and the few forms of query that the panels are made of
    image_jobs.py after_deployment.py replay_and_repair.py freshfetch_itself.py    a dashboard each

Needs the development dependencies (grafana-foundation-sdk, the bindings for Grafana 11.6).
"""
