"""From a workspace to a box: bundles, their proof, verification and deployment."""
