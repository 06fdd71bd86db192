"""From a model to its files: export, simplify, quantize, each made again when it is out of date."""
