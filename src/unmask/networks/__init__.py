"""Networks of the published systems, each put together from its sizes."""
