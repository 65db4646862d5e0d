"""Certificates: the built-in authority of the control plane, and the keys that agents make."""
