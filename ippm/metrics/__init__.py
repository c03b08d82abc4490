"""Metrics, each naming its RFC and registry name."""
