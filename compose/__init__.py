"""The stack Kompensate runs on, for development: compose.yaml where there is Docker, else `local`."""
