"""The suites: what is measured on which data. Each returns a list of results of one shape."""
