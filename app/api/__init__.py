"""HTTP, the event WebSocket and the words both speak. Runs in: control. The only place that knows status codes."""
