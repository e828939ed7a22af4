"""ganforge.v1 in Python: the generated messages, and what turns them into requests and errors.

Server and SDK share it; it needs no web framework.
"""
