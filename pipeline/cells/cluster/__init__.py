"""Cells on a Dask cluster: images and cells in shards, with the same answers to the last bit."""
