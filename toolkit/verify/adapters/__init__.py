"""Ways to what lies outside the ledger: Prometheus, log files, Vercel, Grafana."""
