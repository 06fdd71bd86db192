"""The steps of recipes that edgepipe brings besides ranges."""
