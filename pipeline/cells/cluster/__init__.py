"""Cells on a Dask cluster: shards, workers that are the same, results joined as they come."""
