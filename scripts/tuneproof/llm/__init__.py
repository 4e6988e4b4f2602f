"""Every call to a language model: one request, one reply, one client, one store, whichever engine answers."""
