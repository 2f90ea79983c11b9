"""Pure tensor functions on torch alone: no modules, no configuration, no files."""
