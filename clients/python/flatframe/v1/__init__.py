"""Generated from proto/flatframe/v1 by clients/python/generate: the messages and calls as they are."""
