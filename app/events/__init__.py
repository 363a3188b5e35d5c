"""Events: what is told to webhooks and event WebSockets. Runs in: control."""
