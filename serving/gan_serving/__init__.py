"""Serving exported generators: repository, engines, service, gateway. Never torch."""
