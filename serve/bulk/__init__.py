"""Bulk scoring: label a large table, on one machine or on a Ray cluster, losing nothing and doing nothing twice."""
