"""The page and its API: a server without privileges, which asks the engine for everything."""
