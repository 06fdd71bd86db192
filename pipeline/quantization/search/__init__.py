"""Which int8 of all that can be made is worth shipping: found by making and measuring them."""
