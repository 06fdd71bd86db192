"""Tables: what stands in them, and the forms they are shown in."""
