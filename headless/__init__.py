"""ComfyUI servers: found or fetched, started, and spoken to over HTTP."""
