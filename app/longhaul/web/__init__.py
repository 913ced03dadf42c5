"""Everything that speaks HTTP: the upload protocol, the pages, the API and the process that serves them."""
