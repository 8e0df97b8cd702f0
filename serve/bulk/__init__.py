"""Bulk scoring: label a large table on one machine or a Ray cluster; an interrupted job continues where it stopped."""
