"""Measures Kompensate on this machine: `bench/run`, explained in bench/README.md."""
